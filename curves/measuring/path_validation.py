"""`PathValidation`: validates along the curve while it is trained."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from curves.measuring.meter import ACCURACIES, Meter
from curves.model import CurveModel
from curves.parametrization import Bezier
from keras_fge.core.data import check_data
from keras_fge.core.networks import restored


class PathValidation(keras.callbacks.Callback):
    """Validates a `CurveModel` at several points of the curve after each epoch of `fit`.

    At each point it re-estimates the BatchNormalization statistics, then computes the compiled loss and metrics over
    the validation data. For the loss, "error" (1 - accuracy) and every other metric it adds to the logs

        val_path_max_loss, val_path_mean_loss, val_path_max_error, ...

    the maximum and the mean over the points, for History, and for callbacks such as EarlyStopping and ModelCheckpoint
    that come after it in `callbacks`. It leaves the model as it was.

    Args:
        validation: Data as `keras.Model.evaluate` takes them: arrays `(x, y)`, a `tf.data.Dataset`, a `PyDataset`, ...
        train: Data of the same kinds, for the BatchNormalization statistics. A few thousand samples are enough. Needed
            only for networks with BatchNormalization.
        points: Positions in [0, 1]; for a simplex they must be given. Default: the endpoints, the middle, and the
            points half-way between.
        batch_size: Samples per batch, for arrays. Default: 128.

    Raises:
        ValueError: if a point lies outside [0, 1]; from `fit`, if the model is not a `CurveModel`, or has
            BatchNormalization while `train` is missing.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        validation = curves.PathValidation((x_test, y_test), train=(x, y))
        stop = keras.callbacks.EarlyStopping("val_path_max_loss", mode="min", patience=5)
        curve.fit(x, y, epochs=2, verbose=0, callbacks=[validation, stop])
    """

    def __init__(
        self,
        validation: Any,
        train: Any = None,
        points: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
        *,
        batch_size: int = 128,
    ):
        super().__init__()
        if len(points) == 0:
            raise ValueError("`points` must have at least one position.")
        self.points = [Bezier(2).check_position(t) if np.ndim(t) == 0 else t for t in points]
        check_data("validation", validation)
        self.validation, self.train, self.batch_size = validation, train, batch_size
        self._meter: Meter | None = None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, CurveModel):
            raise ValueError(f"PathValidation needs a curves.CurveModel. Received: {self.model!r}")
        for t in self.points:
            self.model.curve.check_position(t)
        # On TensorFlow, the first step may be what builds a user's own body.
        self._meter = self._new_meter() if self.model.built else None

    def _new_meter(self):
        return Meter(self.model, self.train, self.validation, batch_size=self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        self._meter = self._meter or self._new_meter()
        model, rows = self.model, []
        with restored(model):
            for t in self.points:
                model.t = t
                rows.append(self._meter.measure("test"))
        for name in rows[0]:
            quantity = name.removeprefix("test_")
            if quantity not in ACCURACIES:
                values = [row[name] for row in rows]
                logs[f"val_path_max_{quantity}"] = float(np.max(values))
                logs[f"val_path_mean_{quantity}"] = float(np.mean(values))
