"""`connect`: builds a curve between two trained networks."""

from collections.abc import Sequence

import keras

from curves.curve import Curve
from curves.eligibility import (
    check_can_lie_on_a_curve,
    check_same_constants,
    check_same_lora,
    warn_of_own_training,
)
from curves.model import CurveModel
from curves.parametrization import Bezier, Parametrization, PolygonalChain, as_path
from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.compile_as import compile_as
from keras_fge.core.networks import clone, locked, set_weights


def connect(
    start: keras.Model | Sequence[keras.Model],
    end: keras.Model | None = None,
    curve: Parametrization | None = None,
    fix_start: bool = True,
    *,
    fix_end: bool = True,
    weight_decay: float = 0.0,
    objective: str = "uniform",
    seed: int | None = None,
    fix_inner: bool = True,
) -> CurveModel:
    """Builds a curve between two trained networks, or through several, ready to `compile` and `fit`.

    Between two networks, the inner bends start on the straight line. `connect([net_1, ..., net_k])` puts network i into
    bend i: of a polygonal chain, which goes through all of them, or of a simplex, whose vertices they are. The
    networks are copied and do not change. If their class has a `compute_loss` of its own, the curve minimizes that, at
    w(t); an own `train_step` is left out, with a warning.

    Only trained weights lie on the curve. What is frozen must be equal in both networks, and exists once. With LoRA,
    these are the factors A and B of each layer: the curve is one over (A, B), so that the kernel W + s A(t) B(t) is on
    no Bezier curve between the two kernels; and the line between (A, B) and the same product with other factors, such
    as (-A, -B), is not flat.

    Args:
        start, end: Two built `keras.Model` of one architecture: phi(0) and phi(1). Or `start` alone, a list of such.
        curve: `Bezier(num_bends)` or `PolygonalChain(num_bends)`; `num_bends` counts both endpoints, so the default
            `Bezier(3)` trains one bend, and `num_bends=2` is the straight line, with nothing to train. For a list of k
            networks, `PolygonalChain(k)`, the default, `Simplex(k)`, or `Bezier(k)`.
        fix_start, fix_end: Whether training leaves the start / the end unchanged. Default: both.
        weight_decay: Factor `wd` of a loss term `0.5 * wd * ||w(t)||^2` over all trainable weights, as in the paper.
            Use this or the regularizers of the network, never the optimizer's `weight_decay`, which would act on the
            bends. Default: 0.
        objective: The mean that training minimizes, "uniform" or "arc_length"; see `CurveModel`. Default: "uniform".
        seed: Seed of the sequence of t. Default: random.
        fix_inner: Of a list, whether training leaves the networks between the first and the last unchanged. If all are
            fixed, there is nothing to train, and the path can be measured as it is. Default: yes.

    Returns:
        A `CurveModel`, compiled as the first network is, with an optimizer of its own; `compile` it again for another.

    Raises:
        ValueError: if the architectures differ (the message names the first weight, layer or call that does), a network
            is not built or has nothing to train, or the two networks have different values in a frozen weight.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=2, verbose=0)
        curves.evaluate_path(curve, (x, y), (x_test, y_test), num_points=5).plot("path.png")

    References:
        Garipov et al., NeurIPS 2018, section 3.1, https://arxiv.org/abs/1802.10026
    """
    networks = _named(start, end)
    for name, network in networks.items():
        if not isinstance(network, keras.Model):
            raise ValueError(f"{name} must be a keras.Model. Received: {name.strip('`')}={network!r}")
    if not isinstance(curve, Parametrization | None):
        raise ValueError(f"`curve` must be a curves.Bezier, PolygonalChain or Simplex. Received: curve={curve!r}")
    is_list = end is None
    curve = curve or (PolygonalChain(len(networks)) if is_list else Bezier(3))
    if is_list and curve.num_bends != len(networks):
        raise ValueError(f"`curve` must have one bend for each of {len(networks)} networks. Received: curve={curve!r}")
    if not is_list:
        as_path(curve, "`connect` of two networks (for a simplex, give a list of one network for each vertex)")
    (first_name, first), *others = networks.items()
    warn_of_own_training(first)
    for name, network in others:
        check_same_lora(first, network, first_name, name)
        check_same_architecture(first, network, first_name, name)
    for network in networks.values():
        check_can_lie_on_a_curve(network)
    if not first.trainable_variables:
        raise ValueError(f"{first_name} has no trainable weights: there is nothing to connect.")
    with locked(*networks.values()):
        for name, network in others:
            check_same_constants(first, network, first_name, name)
        copy = clone(first)
        set_weights(copy, first.get_weights())
        body = Curve(copy, curve, fix_start, fix_end, weight_decay=weight_decay, fix_inner=fix_inner and is_list)
        model = CurveModel(body, seed, objective, dtype=first.dtype_policy)
        bends = range(len(networks)) if is_list else (0, -1)
        for bend, network in zip(bends, networks.values()):
            model.set_bend(bend, network)
    if not is_list:
        model.init_linear()
    return compile_as(model, first)


def _named(start, end):
    """The networks by what to call them in errors."""
    if not isinstance(start, list | tuple):
        return {"`start`": start, "`end`": end}
    if end is not None:
        raise ValueError("Give two networks, `start` and `end`, or one list of networks, not both.")
    if len(start) < 2:
        raise ValueError(f"`start` must be a list of at least 2 networks. Received: {len(start)}")
    return {f"`start[{index}]`": network for index, network in enumerate(start)}
