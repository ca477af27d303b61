"""`Curve(layer)`: puts any Keras layer on a curve, and is the one place where bends are combined into weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

from curves.eligibility import check_can_lie_on_a_curve
from curves.parametrization import Bezier, Parametrization, as_path
from curves.regularizers import BendRegularizer
from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.arguments import as_number
from keras_fge.core.batch_norm import batch_norm_statistics
from keras_fge.core.networks import clone, read


@keras.saving.register_keras_serializable(package="curves")
class Curve(keras.layers.Layer):
    """Any Keras layer or model, with its trainable weights on a curve: `y = curve_layer(x, t=t)`.

    Every trainable variable w of `layer` (a "slot") gets `num_bends` copies w_i of its own, and the call computes

        y = layer(x; w(t)),   w(t) = sum_i c_i(t) w_i   (in float32),

    so that dL/dw_i = c_i(t) dL/dw(t). The arithmetic, the dtype policy, masks and regularizers are those of `layer`;
    the regularizers see w(t). Variables that are not trainable (BatchNormalization statistics, random seeds) exist
    once. BatchNormalization statistics belong to one t: re-estimate them there with `curves.update_batch_norm`. Only a
    fixed endpoint (t exactly 0 or 1) uses, in inference, the statistics that came with it: it IS the endpoint network.
    So does an inner bend with `fix_inner`.

    Args:
        layer: A `keras.layers.Layer` or `keras.Model`. If it is built, each bend starts at its weights; if not, each
            bend gets its own initialization. The curve neither uses nor changes the layer's own trainable weights, but
            takes over its state (BatchNormalization statistics, seeds): to keep a trained network as it is, wrap a
            clone, as `curves.connect` does.
        curve: `Bezier`, `PolygonalChain` (`num_bends` counts both endpoints) or `Simplex`. Default: `Bezier(3)`.
        fix_start, fix_end: Whether training leaves the first / the last bend unchanged. Default: both.
        weight_decay: Factor `wd` of a loss term `0.5 * wd * ||w(t)||^2` over all slots. It equals `weight_decay=wd` of
            PyTorch's SGD on w(t), and `L2(wd / 2)` as a Keras regularizer on every weight. This and the layer's
            regularizers count once for each call of this layer in a body. Default: 0.
        fix_inner: Whether training leaves all bends between the ends unchanged. Default: no.
        regularizer: A loss of the bends themselves in training, `VolumeRegularizer` or `CosineRegularizer`. Default:
            none.

    Call arguments:
        inputs: The inputs of `layer`, which also gets all further arguments.
        t: Position on the curve, a scalar in [0, 1]; on a simplex, its coefficients. One t for the whole batch.
        training: As in Keras.

    Raises:
        ValueError: on a bad argument; from `build`, if a layer inside cannot lie on a curve, because it has weights
            with constraints, quantized weights (without LoRA), or state outside of its weights, such as a text layer's
            vocabulary.

    Example:
        curve_layer = curves.Curve(keras.layers.Dense(3), curves.PolygonalChain(4))
        curve_layer(x, t=0.25).shape  # (N, 3)

    References:
        Garipov et al., NeurIPS 2018, section 3, https://arxiv.org/abs/1802.10026
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        curve: Parametrization = Bezier(3),
        fix_start: bool = True,
        fix_end: bool = True,
        *,
        weight_decay: float = 0.0,
        fix_inner: bool = False,
        regularizer: BendRegularizer | None = None,
        **kwargs: Any,
    ):
        # float32 and no autocast: the bends are combined in full precision, and `layer` casts by its own policy.
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"`layer` must be a Keras layer or model. Received: layer={layer!r}")
        if not isinstance(curve, Parametrization):
            raise ValueError(
                f"`curve` must be a curves.Bezier, curves.PolygonalChain or curves.Simplex. Received: curve={curve!r}"
            )
        if not isinstance(regularizer, BendRegularizer | None):
            raise ValueError(
                "`regularizer` must be a curves.VolumeRegularizer or curves.CosineRegularizer; those of Keras belong "
                f"to the layer. Received: regularizer={regularizer!r}"
            )
        # Hidden from Keras' tracker: a tracked layer would add its own weights, without gradients, and count its
        # regularizers a second time.
        object.__setattr__(self, "layer", layer)
        self.curve = curve
        self.fix_start = bool(fix_start)
        self.fix_end = bool(fix_end)
        self.fix_inner = bool(fix_inner)
        self.regularizer = regularizer
        self.weight_decay = as_number("weight_decay", weight_decay, least=0)
        self.supports_masking = True
        self.bends: list[list[keras.Variable]] = []
        if layer.built:
            self.build(None)

    @property
    def _keras_fge_hidden_layers(self) -> tuple[keras.layers.Layer, ...]:
        """The layers hidden from Keras' tracker; `keras_fge.core.batch_norm` finds them here."""
        return (self.layer,)

    def build(self, input_shape: Any) -> None:
        if self.bends:  # Built in `__init__`: there is nothing to add when a file is loaded.
            return
        sources = [self.layer] * self.curve.num_bends
        if not self.layer.built:
            sources = [clone(self.layer) for _ in sources]
            for layer in [self.layer, *sources]:
                _build(layer, input_shape)
        check_can_lie_on_a_curve(self.layer)
        last = self.curve.num_bends - 1
        for index, source in enumerate(sources):
            self.bends.append(
                [
                    self._add_copy(variable, f"bend_{index}", trainable=not self._is_fixed(index))
                    for variable in source.trainable_variables
                ]
            )
        # Hidden too; stored, so that they do not change with the layer's `trainable` flags.
        object.__setattr__(self, "slots", self.layer.trainable_variables)
        # Keras tracks variables in an attribute: this makes the layer's state part of this layer's state.
        self.state = self.layer.non_trainable_variables
        self.statistics = batch_norm_statistics(self)
        # Statistics that a bend came with: of the ends, and of inner bends that are fixed.
        names = {0: "start", last: "end"}
        self.own_statistics: list[list[keras.Variable]] = []
        for index in range(last + 1):
            has_own = self.statistics if index in names or self.fix_inner else []
            name = names.get(index, f"bend_{index}")
            self.own_statistics.append([self._add_copy(variable, name, trainable=False) for variable in has_own])
        if self.fix_inner and self.statistics:  # Whether the bends are still the networks of these statistics.
            shape = (self.curve.num_bends,)
            self.is_network = self.add_weight(
                name="is_network", shape=shape, initializer="ones", trainable=False, autocast=False
            )

    def _is_fixed(self, index):
        return {0: self.fix_start, self.curve.num_bends - 1: self.fix_end}.get(index, self.fix_inner)

    def _add_copy(self, variable, suffix, trainable):
        name = variable.path.removeprefix(f"{self.layer.name}/").replace("/", "_").replace(".", "_")
        return self.add_weight(
            name=f"{name}_{suffix}",
            shape=variable.shape,
            # No numpy here: while Keras traces `build`, the variable may not have its value yet.
            initializer=lambda shape, dtype: ops.cast(ops.stop_gradient(ops.copy(variable.value)), dtype),
            dtype="float32",
            trainable=trainable,
            autocast=False,
        )

    def call(self, inputs: Any, *args: Any, t: Any = None, training: bool | None = None, **kwargs: Any) -> Any:
        if t is None:
            raise ValueError(f"Layer '{self.name}' lies on a curve: call it with a position, as in `layer(x, t=t)`.")
        with self.scope_at(t, training) as scope:
            weights = [scope.get_current_value(variable) for variable in self.slots]
            before = [scope.get_current_value(variable) for variable in self.state]
            outputs = self.layer(inputs, *args, training=training, **kwargs)
            losses = self.layer.losses + self._decay()
        for slot, value in zip(self.slots, weights):
            if scope.get_current_value(slot) is not value:
                raise ValueError(
                    f"'{slot.path}' is assigned by its own layer during the call (as by SpectralNormalization): such a "
                    "weight cannot lie on a curve, the new value would be lost."
                )
        for variable, value in zip(self.state, before):
            if scope.get_current_value(variable) is not value:
                variable.assign(scope.get_current_value(variable))
        if training and self.regularizer:
            losses = [*losses, self.regularizer(self.bends)]
        for loss in losses:
            self.add_loss(loss)
        return outputs

    def scope_at(self, t: Any, training: bool | None) -> keras.StatelessScope:
        """A scope in which `layer` has its weights at t; in inference, at a fixed end, with the statistics of that end.

        A scope does not fall through to the one around it, so this one maps every variable.
        """
        coefficients = self.curve.coefficients(t)
        variables = [*self.slots, *self.state]
        values = [*self._combine(coefficients), *self._state_values(coefficients, training)]
        return keras.StatelessScope(zip(variables, values), collect_losses=True)

    def _combine(self, coefficients):
        """w(t) of each slot: element-wise in float32 (a matmul could be rounded to TF32 on a GPU)."""
        weights = []
        for slot in zip(*self.bends):
            terms = [coefficients[i] * bend for i, bend in enumerate(slot)]
            weights.append(sum(terms[1:], terms[0]))
        return weights

    def _state_values(self, coefficients, training):
        """The values of `state`; for inference at a fixed end, with the BatchNormalization statistics of that end."""
        values = {id(variable): variable.value for variable in self.state}
        if not training:
            for index, own in enumerate(self.own_statistics):
                for variable, value in zip(self.statistics, own) if self._is_fixed(index) else ():
                    is_there = coefficients[index] == 1.0
                    if self.fix_inner:
                        is_there = ops.logical_and(is_there, self.is_network[index] > 0)
                    values[id(variable)] = ops.where(is_there, value.value, values[id(variable)])
        return [values[id(variable)] for variable in self.state]

    def _decay(self):
        """[0.5 * weight_decay * ||w(t)||^2], or [] without weight decay. Call this inside `scope_at`."""
        if not self.weight_decay:
            return []
        squares = [ops.sum(ops.square(ops.cast(variable.value, "float32"))) for variable in self.slots]
        return [0.5 * self.weight_decay * sum(squares)]

    def penalty(self, t: Any) -> Any:
        """The part of the loss that depends on w(t) alone: weight regularizers and weight decay, a scalar tensor."""
        with self.scope_at(t, training=False):
            return sum(self.layer.losses + self._decay(), ops.zeros(()))

    def weights_at(self, t: float) -> list[np.ndarray]:
        """The weights of `layer` at `t`, as numpy arrays in the order of `layer.get_weights()`.

        At a fixed end, the BatchNormalization statistics are those of that endpoint; elsewhere, the last estimates.
        """
        scope = self.scope_at(t, training=False)
        return [ops.convert_to_numpy(scope.get_current_value(variable)) for variable in self.layer.weights]

    def set_bend(self, index: int, layer: keras.layers.Layer) -> None:
        """Copies the trainable weights of `layer` into bend `index`, and the statistics of an end or a fixed bend.

        Args:
            index: 0, ..., num_bends - 1, or negative to count from the end.
            layer: A layer or network of the same architecture.

        Raises:
            ValueError: if `index` is out of range, or `layer` differs (the message names the first weight, option or
                call that does).
        """
        num_bends = self.curve.num_bends
        if not -num_bends <= index < num_bends:
            raise ValueError(f"`index` must lie in [-{num_bends}, {num_bends}), one per bend. Received: index={index}")
        index %= num_bends
        check_same_architecture(self.layer, layer, "the curve", "`layer`")
        for bend, variable in zip(self.bends[index], layer.trainable_variables):
            bend.assign(read(variable))
        for own, variable in zip(self.own_statistics[index], batch_norm_statistics(layer)):
            own.assign(read(variable))
        self._mark(index, True)

    def init_linear(self) -> None:
        """Puts the inner bends on the straight line between the endpoints: w_i = (1 - s) w_0 + s w_{n-1}, s = i/(n-1).

        Sets the BatchNormalization statistics to the mean of those of the endpoints.
        """
        last = as_path(self.curve, "`init_linear`").num_bends - 1
        for index in range(1, last):
            self._mark(index, False)
        for start, *inner, end in zip(*self.bends):
            start, end = read(start), read(end)
            for index, bend in enumerate(inner, start=1):
                bend.assign(start + index / last * (end - start))
        for variable, start, end in zip(self.statistics, self.own_statistics[0], self.own_statistics[last]):
            variable.assign((read(start) + read(end)) / 2)

    def _mark(self, index, is_network):
        """Notes whether a fixed inner bend is a network with statistics of its own."""
        if self.fix_inner and self.statistics:
            marks = read(self.is_network).copy()
            marks[index] = is_network
            self.is_network.assign(marks)

    def compute_mask(self, *args, **kwargs):
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            **self._curve_config(),
            "fix_inner": self.fix_inner,
            "regularizer": keras.saving.serialize_keras_object(self.regularizer),
        }

    def _curve_config(self) -> dict[str, Any]:
        """The arguments that belong to the curve, not to the layer."""
        return {
            "curve": keras.saving.serialize_keras_object(self.curve),
            "fix_start": self.fix_start,
            "fix_end": self.fix_end,
            "weight_decay": self.weight_decay,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Curve":
        config = dict(config)
        for key in ("layer", "curve", "regularizer"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def _build(layer, input_shape):
    try:
        if not layer.built:
            layer.build(input_shape)
    except TypeError as error:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) cannot be built from the shape of one input. Call the layer once "
            f"before it is put on a curve. Keras says: {error}"
        ) from error
