"""Shorthands for Keras layers on a curve: `CurveDense`, `CurveConv2D`, `CurveBatchNormalization`."""

from typing import Any

import keras

from curves.curve import Curve
from curves.parametrization import Bezier, Parametrization


class _CurveOf(Curve):
    """A `Curve` that makes its layer itself, from the arguments of that layer."""

    layer_class: type[keras.layers.Layer]

    def __init__(
        self,
        *arguments: Any,
        curve: Parametrization = Bezier(3),
        fix_start: bool = True,
        fix_end: bool = True,
        weight_decay: float = 0.0,
        name: str | None = None,
        **layer_arguments: Any,
    ):
        if any(isinstance(argument, Parametrization) for argument in arguments):
            raise ValueError(f"`curve` is given by name: {type(self).__name__}(..., curve=...). Received: {arguments}")
        trainable = layer_arguments.pop("trainable", True)
        layer = self.layer_class(*arguments, **layer_arguments)
        super().__init__(layer, curve, fix_start, fix_end, weight_decay=weight_decay, name=name, trainable=trainable)

    def get_config(self) -> dict[str, Any]:
        own = {"name": self.name, "trainable": self.trainable}
        return {**self.layer.get_config(), **own, **self._curve_config()}


@keras.saving.register_keras_serializable(package="curves")
class CurveDense(_CurveOf):
    """`keras.layers.Dense` on a curve: a kernel and a bias for each bend. Call it as `layer(x, t=t)`; see `Curve`.

    Args:
        units: Number of outputs.
        curve, fix_start, fix_end, weight_decay: See `Curve`.
        **dense_arguments: All other arguments of `keras.layers.Dense`. Regularizers see w(t).

    Example:
        layer = curves.CurveDense(3, activation="softmax")
        layer(x, t=0.5).shape  # (N, 3)
    """

    layer_class = keras.layers.Dense


@keras.saving.register_keras_serializable(package="curves")
class CurveConv2D(_CurveOf):
    """`keras.layers.Conv2D` on a curve: a kernel and a bias for each bend. Call it as `layer(x, t=t)`; see `Curve`.

    Args:
        filters, kernel_size: As in `keras.layers.Conv2D`.
        curve, fix_start, fix_end, weight_decay: See `Curve`.
        **conv_arguments: All other arguments of `keras.layers.Conv2D`. Regularizers see w(t).

    Example:
        layer = curves.CurveConv2D(4, 3, padding="same", curve=curves.Bezier(3), fix_end=False)
        layer(np.ones((2, 8, 8, 1), "float32"), t=1.0).shape  # (2, 8, 8, 4)
    """

    layer_class = keras.layers.Conv2D


@keras.saving.register_keras_serializable(package="curves")
class CurveBatchNormalization(_CurveOf):
    """`keras.layers.BatchNormalization` on a curve: gamma and beta for each bend, one set of statistics; see `Curve`.

    Args:
        curve, fix_start, fix_end, weight_decay: See `Curve`.
        **norm_arguments: All arguments of `keras.layers.BatchNormalization`.

    Example:
        curves.CurveBatchNormalization(momentum=0.9)(x, t=0.0, training=True)
    """

    layer_class = keras.layers.BatchNormalization
