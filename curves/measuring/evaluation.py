"""`Evaluation`: `evaluate` of a model that also keeps what it predicts on the way, for which `predict` needs a pass."""

from typing import Any

import keras
import numpy as np
from keras import ops

from curves.model import CurveModel
from keras_fge.core.keras_internals import build_metrics, is_stateless, losses_lent


class Evaluation(keras.Model):
    """A model around another one, whose `evaluate` computes the loss and the metrics of that one.

    Its test step is Keras' own, with the loss and the metrics of `measured`; it is compiled once.

    Args:
        measured: A compiled `CurveModel`.
    """

    def __init__(self, measured: CurveModel):
        super().__init__(autocast=False, name="evaluation")
        self.measured = measured
        self.test_function: Any = None
        object.__setattr__(self, "heard", [])  # The outputs of each batch; Keras is not to track them.
        self.keeps = True
        self.compile(run_eagerly=measured.run_eagerly, jit_compile=measured.jit_compile)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.measured(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with losses_lent(self, self.measured):
            return self.measured.compute_loss(x, y, y_pred, sample_weight, training)

    @property
    def metrics(self):
        return [*super().metrics[:1], *(metric for metric in self.measured.metrics if metric.name != "loss")]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.measured.compute_metrics(x, y, y_pred, sample_weight)
        outputs = {f"_prediction_{index:03}": output for index, output in enumerate(keras.tree.flatten(y_pred))}
        return {**self.get_metrics_result(), **outputs}

    def make_test_function(self, force: bool = False) -> Any:
        if self.test_function is not None and not force:
            return
        super().make_test_function(force)
        function = self.test_function

        def heard(*arguments):
            result = function(*arguments)
            logs = result[0] if is_stateless() else result
            outputs = [logs.pop(name) for name in sorted(logs) if name.startswith("_prediction_")]
            self.heard.append(outputs if self.keeps else [])
            return result

        self.test_function = heard

    def run(self, x: Any, y: Any, sample_weight: Any, batch_size: int, keeps: bool) -> tuple[dict[str, float], Any]:
        """Evaluates arrays: {"loss": ..., ...}, and the outputs of all batches in order, flat; None, if not `keeps`."""
        # Before a step is compiled, the variables of the metrics must be there.
        first = lambda array: None if array is None else ops.convert_to_tensor(np.asarray(array[:1]))  # noqa: E731
        build_metrics(self.measured, keras.tree.map_structure(first, (x, y, sample_weight)))
        self.keeps = keeps
        self.heard.clear()  # Of one that broke off.
        values = self.evaluate(x, y, sample_weight=sample_weight, batch_size=batch_size, verbose=0, return_dict=True)
        parts, outputs = list(self.heard), None
        self.heard.clear()
        if keeps:
            outputs = [np.concatenate([ops.convert_to_numpy(part) for part in output]) for output in zip(*parts)]
        return values, outputs
