"""`FGE`: Fast Geometric Ensembling as a callback of `fit`."""

import os
from typing import Any

from keras_fge.callback import CyclicEnsemble
from keras_fge.core.arguments import as_number
from keras_fge.core.compiled import AS_COMPILED
from keras_fge.cycle import middle
from keras_fge.schedule import triangular


class FGE(CyclicEnsemble):
    """Fast Geometric Ensembling (paper, section 5, algorithm 1) as a callback of `model.fit`.

    Starts from a network that was trained in the usual way, or follows such a training in one `fit`: with
    `start_epoch=160` of 200 epochs, the first 160 go by the optimizer's own learning rate. From then on the learning
    rate follows `keras_fge.triangular`, and after every update i with mod(i, c) = c/2, at the minimum, all weights are
    collected.

    Args:
        max_learning_rate: alpha_1, at the ends of a cycle. Default: the learning rate that the optimizer has when the
            cycles begin; docs/choosing.md says when another one is better. (With `fit(verbose=1)` it is printed.)
        min_learning_rate: alpha_2, in its middle; at least 0, below `max_learning_rate`. Default: a hundredth of that.
        cycle_epochs: Length c of a cycle in epochs. Default: 2, unless `cycle_steps` is given. The paper uses 2 or 4.
        cycle_steps: Length c of a cycle in iterations, instead of `cycle_epochs`. Must be even.
        start_epoch: The epoch, counted from 0, with which the cycles begin. Default: 0.
        validation_data: Arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches, on which each
            snapshot and the ensemble so far are measured, one pass for each cycle. Default: those of `fit`; see above.
        directory: Folder for members and state; see above. A network that is not built yet must be called first.
            Default: members stay in memory.
        resume: Whether to continue the run in `directory`, if there is one. Default: a run there is an error.
        rescale_momentum: Whether SGD with momentum takes the paper's step, v = m v + g, w -= alpha_i v. False: Keras'
            step, which lags behind a changing rate by about 1 / (1 - m) updates. Default: True. After other training,
            the velocity is taken to be of the learning rate that the optimizer has when `fit` begins: where you have
            lowered that since the last update, the first steps would be too large; then give False.
        from_logits: What the network outputs: True, False, None or a list, as for `Ensemble`. Default: as the compiled
            losses say; with validation data, where they do not tell, as the outputs show.
        task: "classification", "multilabel" or "regression", or a list, as for `Ensemble`. Default: as the losses say.
        metrics: "compiled": validation data are measured by the compiled loss and metrics, "ensemble_loss" and so on,
            for whatever task. Default: by those of `Ensemble.evaluate`.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the cycle has an odd number of
            iterations, does not fit `steps_per_execution` or gradient accumulation, or is so long that no snapshot
            would be taken; if the optimizer has several learning rates, or is driven by another such callback; if
            `directory` holds the run of another network or with other settings.
        OSError: if a member or the state cannot be written. The snapshots are in `snapshots`, and those before in the
            folder, whole.

    Example:
        fge = keras_fge.FGE(max_learning_rate=0.05, min_learning_rate=0.0005, cycle_epochs=2)
        model.fit(x, y, epochs=4, verbose=0, callbacks=[fge])
        fge.ensemble().evaluate(x_test, y_test)

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(
        self,
        max_learning_rate: float | None = None,
        min_learning_rate: float | None = None,
        cycle_epochs: int | None = None,
        cycle_steps: int | None = None,
        start_epoch: int = 0,
        validation_data: Any = None,
        directory: str | os.PathLike | None = None,
        resume: bool = False,
        rescale_momentum: bool = True,
        from_logits: Any = AS_COMPILED,
        task: Any = None,
        metrics: str | None = None,
    ):
        if max_learning_rate is None and min_learning_rate is not None:
            raise ValueError(
                f"`min_learning_rate` needs `max_learning_rate`. Received: min_learning_rate={min_learning_rate}"
            )
        cycle_epochs = 2 if cycle_epochs is None and cycle_steps is None else cycle_epochs
        others = validation_data, directory, resume, rescale_momentum, from_logits, task, metrics
        super().__init__(cycle_epochs, cycle_steps, start_epoch, *others)
        if cycle_steps is not None:
            middle(cycle_steps)  # Raises an error, if it is odd.
        self.chooses_rates = max_learning_rate is None
        if not self.chooses_rates:
            largest = as_number("max_learning_rate", max_learning_rate)
            least = largest / 100 if min_learning_rate is None else as_number("min_learning_rate", min_learning_rate)
            self._set_rates(largest, least)

    def _set_rates(self, largest, least):
        if not 0 <= least < largest:
            raise ValueError(
                "`min_learning_rate` must be at least 0 and below `max_learning_rate`. Received: "
                f"max_learning_rate={largest}, min_learning_rate={least}"
            )
        self.max_learning_rate, self.min_learning_rate = largest, least

    def choose_rates(self, rate: float) -> None:
        self._set_rates(rate, rate / 100)

    def learning_rate(self, step: Any, cycle_steps: int) -> Any:
        return triangular(step, self.max_learning_rate, self.min_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps: int) -> int:
        return middle(cycle_steps, self.cycle_epochs)
