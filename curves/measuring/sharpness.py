"""`sharpness`: how strongly the train loss is curved at the weights of a network: largest eigenvalue, and trace."""

from typing import Any

import keras
import numpy as np

from curves.measuring.directions import largest_eigenpairs, product_of
from curves.measuring.meter import Meter, check_compiled
from curves.model import CurveModel
from keras_fge.core.arguments import as_integer
from keras_fge.core.data import check_data, subset, without_none
from keras_fge.core.derivatives import LossDerivatives
from keras_fge.core.networks import locked, set_weights

PROBES = 10


def sharpness(
    network: keras.Model,
    train: Any,
    *,
    batch_size: int = 128,
    train_samples: int | None = None,
    probes: int = PROBES,
    seed: int = 0,
) -> dict[str, float]:
    """Measures the curvature of the train loss at the weights of a network: how sharp, or flat, its place is.

    The Hessian H is that of the compiled loss over all of `train`, with regularizers, in inference mode, in the trained
    weights; statistics of BatchNormalization are those of the network, and count as constants. Products with H are
    exact. The largest eigenvalue comes from Lanczos' method, to 0.1 % or with a warning; the trace is a mean over
    random vectors of signs (Hutchinson), mean_k v_k^T H v_k, which is right on average.

    Compare networks of one architecture and loss only: weights that are scaled in one layer and back in the next
    compute the same, with other curvatures.

    Args:
        network: A compiled `keras.Model`, such as `ensemble[0]` or `curve.network_at(0.5)`.
        train: Arrays `(x, y)`, or a data set.
        batch_size: Samples per batch, for arrays. Default: 128.
        train_samples: Number of samples of `train`, drawn at random with a fixed seed. Only for arrays. Default: all.
        probes: Random vectors for the trace, at least 2. Default: 10.
        seed: Seed of all random vectors. Default: 0.

    Returns:
        {"largest_eigenvalue", "trace", "trace_se"}, floats in units of the loss by weights squared; the last is the
        standard error of the trace. About 30 passes forth and back over `train`.

    Raises:
        ValueError: if the network is not compiled, is a `CurveModel`, has nothing to train, or has layers with states;
            for data that `evaluate_path` refuses.

    Example:
        values = curves.sharpness(network, (x, y), train_samples=100)
        2 / values["largest_eigenvalue"]  # Gradient descent with a larger rate would not stay here.

    References:
        Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, ICML 2019,
        https://arxiv.org/abs/1901.10159; Hutchinson, Communications in Statistics, 1989 (trace)
    """
    if not isinstance(network, keras.Model) or isinstance(network, CurveModel):
        raise ValueError(f"`network` must be a keras.Model, as `curve.network_at(t)` is. Received: network={network!r}")
    check_compiled(network)
    check_data("train", train)
    batch_size = as_integer("batch_size", batch_size)
    seed, probes = as_integer("seed", seed, least=0), as_integer("probes", probes, least=2)
    data = subset(without_none(train), train_samples, "train_samples")
    with locked(network):
        return measured(LossDerivatives(network, data, batch_size), probes, seed)


class Curvature:
    """`sharpness` at positions of a curve through whole networks, in one copy of the network."""

    def __init__(self, model: CurveModel, meter: Meter):
        self.model, self._decay = model, model.whole_network("evaluate_path(sharpness=True)").weight_decay
        self._network = model.network_at(model.curve.middle)
        self._derivatives = LossDerivatives(self._network, meter.train, meter.batch_size)

    def measure(self, t: float) -> dict[str, float]:
        """At `t`, with the statistics of BatchNormalization that the model has; the curve's weight decay counts."""
        set_weights(self._network, self.model.weights_at(t))
        found = measured(self._derivatives, PROBES, seed=0)
        added = {"largest_eigenvalue": self._decay, "trace": self._decay * _size(self._network)}
        return {name: value + added.get(name, 0.0) for name, value in found.items()}


def measured(derivatives: LossDerivatives, probes: int, seed: int) -> dict[str, float]:
    """What `sharpness` returns."""
    times, size = product_of(derivatives), _size(derivatives.network)
    (largest,), _ = largest_eigenpairs(times, size, 1, seed)
    vectors = np.random.default_rng(seed).choice([-1.0, 1.0], (probes, size))
    traces = [vector @ times(vector) for vector in vectors]
    deviation = np.std(traces, ddof=1) / np.sqrt(probes)
    return {"largest_eigenvalue": float(largest), "trace": float(np.mean(traces)), "trace_se": float(deviation)}


def _size(network):
    return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
