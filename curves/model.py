"""`CurveModel`: draws a t for each training step, and has one current t for everything else."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from curves.curve import Curve
from curves.finite_loss import FiniteLoss
from curves.geometry import relative_speed, segment_lengths
from curves.parametrization import Bezier, Parametrization, as_path
from keras_fge.core.compile_as import compile_as
from keras_fge.core.derivatives import takes_training
from keras_fge.core.keras_internals import (
    all_layers,
    compiled_loss_lent,
    has_graph,
    inner_optimizer,
    is_stateless,
    warn_of_newer_keras,
    warn_of_slow_scan,
)
from keras_fge.core.networks import clone, read, regularization, set_weights
from keras_fge.core.pages import as_html
from keras_fge.core.tasks import output_names

OBJECTIVES = ("uniform", "arc_length")
MULTIPLIERS, MODULI = (171, 172, 170), (30269, 30307, 30323)


class Position(keras.Variable):
    """A variable that refuses what is no position on a curve, or a simplex."""

    def __init__(self, curve: Parametrization):
        self.check = curve.check_position
        super().__init__(curve.middle, trainable=False, dtype="float32", autocast=False, name="t")

    def assign(self, value):
        return super().assign(self.check(value))


@keras.saving.register_keras_serializable(package="curves")
class CurveModel(keras.Model):
    """A plain `keras.Model` whose weights lie on a curve, at the current position `t`.

    `fit` minimizes the mean loss over the curve; each step draws one t ~ U[0,1] for the whole batch. `evaluate`,
    `predict`, calls, and the validation inside `fit` work at `model.t`, which `fit` does not change; move it with
    `model.t = 0.3`, which recompiles nothing. With BatchNormalization, call
    `curves.update_batch_norm(model, data)` after moving; `curves.PathValidation` validates along the curve in `fit`.

    The mean can be taken in two ways:

        uniform:     l(theta) = integral_0^1 L(phi(t)) dt
        arc_length:  l(theta) = integral_0^1 L(phi(t)) r(t) dt,   r(t) = ||phi'(t)|| / integral_0^1 ||phi'(s)|| ds

    A curve can lower the first, which the paper trains (equation 2), by slowing down where the loss is low; the second
    (equation 1) is the mean over points spread evenly along the curve. The paper calls the gradient of the second
    intractable, as r depends on theta. But with the Gram matrix of the bends, ||phi'(t)||^2 is a small quadratic form
    (`curves.geometry`), and the integral of the speed a sum over few nodes. So each step differentiates
    L(phi(t)) r(t), both factors, at a t ~ U[0,1]: the mean of these gradients is the gradient of l.

    If the loss is not finite at the end of an epoch, `fit` restores all weights of the epoch before and raises a
    `FloatingPointError`.

    Args:
        body: Layer or model called as `body(x, t=t, training=...)`: a `Curve`, a model of your own made of curve
            layers, or a functional model one of whose inputs is a scalar named "t":
            `keras.Input(batch_shape=(), name="t")`.
        seed: Seed of the sequence of t, the same on every backend. Default: random.
        objective: "uniform" or "arc_length". Default: "uniform".

    Attributes:
        t: Variable, the current position of the model: a scalar in [0, 1] on a curve, which starts at 0.5, the middle;
            on a simplex its coefficients, all equal at the start.
        body: The argument.
        curve: What its curve layers lie on: `Bezier`, `PolygonalChain` or `Simplex`.

    Example:
        body = curves.Curve(net_a, curves.Bezier(3), fix_start=False, fix_end=False)
        curve = curves.CurveModel(body, seed=0)
        curve.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=2, verbose=0)
        curve.t = 0.3
        curve.evaluate(x_test, y_test, verbose=0)
    """

    def __init__(self, body: keras.layers.Layer, seed: int | None = None, objective: str = "uniform", **kwargs: Any):
        # autocast=False leaves x as the network would receive it: the body casts by its own policy.
        super().__init__(**{"autocast": False, **kwargs})
        if not isinstance(body, keras.layers.Layer):
            raise ValueError(f"`body` must be a Keras layer or model called as f(x, t=t). Received: body={body!r}")
        if objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {OBJECTIVES}. Received: objective={objective!r}")
        self.body = body
        self.seed = seed
        self.objective = objective
        network = body.layer if isinstance(body, Curve) else body
        if names := output_names(network):
            self.output_names = names  # `compile` uses them to match losses and metrics given by output.
        start = np.random.default_rng(seed).integers(1, MODULI)
        self.generator = keras.Variable(start, trainable=False, dtype="int32", name="generator")
        self.curve = _common_curve(body)
        if objective == "arc_length":
            as_path(self.curve, "`objective='arc_length'`")
        self._t = Position(self.curve)
        # Only the body needs building. A user's own body may say that it is built before its layers are.
        self.built = isinstance(body, Curve) and body.built

    @property
    def t(self) -> keras.Variable:
        return self._t

    @t.setter
    def t(self, value: Any) -> None:
        self._t.assign(value)  # Replacing the variable by a number would not reach a compiled function.

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        t = ops.convert_to_tensor(self.t)
        names = [tensor.name for tensor in self.body.inputs] if has_graph(self.body) else []
        if "t" not in names:
            return self.body(inputs, t=t, training=training)
        flat = keras.tree.flatten(inputs)
        flat.insert(names.index("t"), t)
        return self.body(keras.tree.pack_sequence_as(self.body.input, flat), training=training)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit`; if the loss is not finite, restores the last good epoch and raises an error."""
        warn_of_newer_keras()
        if self.compiled:
            warn_of_slow_scan(self)
        if self.built and not self.trainable_variables:
            raise ValueError(
                "There is nothing to train: all bends are fixed endpoints. The curve can be measured as it is."
            )
        if self.compiled and self.optimizer and (decay := inner_optimizer(self.optimizer).weight_decay):
            warnings.warn(
                f"The optimizer's weight_decay={decay:g} decays each bend by itself, not the weights w(t) of the "
                "network: give `weight_decay` to `connect` or `Curve`, and none to the optimizer.",
                stacklevel=2,
            )
        fit = super().fit
        arguments = inspect.signature(fit).bind(*args, **kwargs).arguments
        callbacks = arguments.pop("callbacks", None)
        return fit(**arguments, callbacks=[FiniteLoss(), *(keras.tree.flatten(callbacks) if callbacks else [])])

    def train_step(self, *args: Any) -> Any:
        """Trains one step at a random t ~ U[0,1], and restores the current t."""
        if is_stateless():
            return self._stateless_train_step(*args)
        here = ops.copy(self.t)
        self.t.assign(self._sample_position())
        try:
            return super().train_step(*args)
        finally:
            self.t.assign(here)

    def _stateless_train_step(self, state, data):
        # On JAX the variables of the model live in `state`, a tuple of four lists, and not in the model.
        trainable, non_trainable, *rest = state
        variables = self.non_trainable_variables
        with keras.StatelessScope(zip(variables, non_trainable)) as scope:
            here = self.t.value
            self.t.assign(self._sample_position())
            non_trainable = [scope.get_current_value(variable) for variable in variables]
        logs, (trainable, non_trainable, *rest) = super().train_step((trainable, non_trainable, *rest), data)
        non_trainable = [here if v is self._t else value for v, value in zip(variables, non_trainable)]
        return logs, (trainable, non_trainable, *rest)

    def _sample_position(self):
        """The next t, uniform, by the generator of Wichmann and Hill (Applied Statistics 31, 1982, AS 183).

        It adds the fractions of three multiplicative congruential generators modulo 1. It computes in small integers,
        so that all backends, compiled or not, train at the same positions: their own generators differ from each other,
        and TensorFlow's even from itself under XLA. The state is a variable of the model, so a saved model continues
        the sequence.
        """
        moduli = ops.convert_to_tensor(MODULI, "int32")
        state, uniforms = ops.convert_to_tensor(self.generator), []
        for _ in range(self.curve.num_uniforms):
            state = ops.mod(state * ops.convert_to_tensor(MULTIPLIERS, "int32"), moduli)
            uniforms.append(ops.mod(ops.sum(ops.cast(state, "float32") / ops.cast(moduli, "float32")), 1.0))
        self.generator.assign(state)
        return self.curve.position_from(uniforms)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of the network at `t`; in training, times r(t) if the objective is "arc_length".

        A network with a `compute_loss` of its own computes it, at w(t); state that it changes meanwhile is not kept.
        """
        if network := self._network_with_own_loss():
            with compiled_loss_lent(self, network), self.body.scope_at(self.t, training):
                arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
                if takes_training(network.compute_loss):
                    arguments["training"] = training
                # The losses of this model have these already, also if `compute_loss` leaves them out.
                regularizers = sum(network.losses, ops.zeros(()))
                loss = network.compute_loss(**arguments) - regularizers
            loss += sum(self.losses, ops.zeros(()))
        else:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training and self.objective == "arc_length":
            loss *= relative_speed(self.curve_layers(), self.t)
        return loss

    def _network_with_own_loss(self):
        network = self.body.layer if isinstance(self.body, Curve) else None
        own = isinstance(network, keras.Model) and type(network).compute_loss is not keras.Model.compute_loss
        return network if own else None

    def set_bend(self, index: int, network: keras.Model) -> None:
        """Copies the weights of `network` into bend `index` of a body that is one `Curve`; see `Curve.set_bend`."""
        self.whole_network("set_bend").set_bend(index, network)

    def init_linear(self) -> None:
        """Puts the inner bends on the straight line between the endpoints; see `Curve.init_linear`."""
        for layer in self.curve_layers():
            layer.init_linear()

    def weights_at(self, t: float) -> list[np.ndarray]:
        """The weights of the network at `t` in [0, 1]: numpy arrays, in the order of `keras.Model.get_weights`.

        At a fixed end, the BatchNormalization statistics are those of that endpoint; elsewhere, the last estimates.
        """
        return self.whole_network("weights_at").weights_at(t)

    def network_at(self, t: float) -> keras.Model:
        """A plain `keras.Model` with the weights at `t`, independent of this curve, compiled as it is."""
        curve = self.whole_network("network_at")
        network = clone(curve.layer)
        set_weights(network, curve.weights_at(t))
        return compile_as(network, self if self.compiled else curve.layer)

    def penalty(self, t: float) -> float:
        """The part of the loss that depends on the weights at `t` alone: regularizers and weight decay, a float."""
        return regularization(self) + sum(
            float(ops.convert_to_numpy(layer.penalty(t))) for layer in self.curve_layers()
        )

    def arc_length(self, num_points: int = 61) -> float:
        """Length of the curve in weight space, over the trainable weights.

        sum_j ||w(t_{j+1}) - w(t_j)|| on `num_points` evenly spaced t. `num_points=2` gives the straight distance
        between the endpoints.

        Args:
            num_points: Number of points of the grid, at least 2. Default: 61.

        Returns:
            The length, a float, in the units of the weights.
        """
        if num_points < 2:
            raise ValueError(f"`num_points` must be at least 2. Received: num_points={num_points}")
        return float(np.sum(segment_lengths(self.curve_layers(), np.linspace(0, 1, num_points))))

    def curve_layers(self) -> list[Curve]:
        """All `Curve` layers in the body."""
        return [layer for layer in all_layers(self) if isinstance(layer, Curve)]

    def __repr__(self) -> str:
        if not self.built or not (layers := self.curve_layers()):
            return f"CurveModel({self.body.name}, not built)"
        size = sum(int(np.prod(slot.shape)) for layer in layers for slot in layer.bends[0])
        kinds = ", ".join(sorted({repr(layer.curve) for layer in layers}))
        return f"CurveModel({kinds} of '{self.body.name}', {size:,} weights a bend, t={np.round(read(self.t), 3)})"

    def _repr_html_(self) -> str:
        return as_html([repr(self)])

    def whole_network(self, method: str) -> Curve:
        """The body, if it is one `Curve(network)`; else a ValueError that says that `method` needs that."""
        if not (isinstance(self.body, Curve) and isinstance(self.body.layer, keras.Model)):
            raise ValueError(
                f"`{method}` needs a body that is one `curves.Curve(network)`; in a body of your own, call it on its "
                f"curve layers. Received: body={self.body!r}"
            )
        return self.body

    def get_config(self) -> dict[str, Any]:
        body = keras.saving.serialize_keras_object(self.body)
        return {**super().get_config(), "body": body, "seed": self.seed, "objective": self.objective}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CurveModel":
        return cls(**{**config, "body": keras.saving.deserialize_keras_object(config["body"])})


def _common_curve(body):
    """What the curve layers in a body have in common: where a position is, and how it is drawn."""
    curves = [layer.curve for layer in all_layers(body) if isinstance(layer, Curve)] or [Bezier(2)]
    if any(np.shape(curve.middle) != np.shape(curves[0].middle) for curve in curves):
        raise ValueError(
            f"The layers of `body` must all lie on curves, or on simplexes of one size. Received: {curves}"
        )
    return curves[0]
