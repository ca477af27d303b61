"""`SnapshotEnsemble`: Snapshot Ensembles (SSE) as a callback of `fit`."""

import os
from typing import Any

from keras_fge.callback import CyclicEnsemble
from keras_fge.core.arguments import as_number
from keras_fge.core.compiled import AS_COMPILED
from keras_fge.schedule import cosine


class SnapshotEnsemble(CyclicEnsemble):
    """Snapshot Ensembles (SSE) as a callback of `model.fit`: cosine cycles, a snapshot at the end of each.

    The learning rate follows `keras_fge.cosine`. Usually the whole training consists of a few long cycles.

    Args:
        max_learning_rate: alpha_0, at the start of each cycle.
        cycle_epochs: Length of a cycle in epochs.
        cycle_steps: Length of a cycle in iterations, instead of `cycle_epochs`.
        start_epoch, validation_data, directory, resume, rescale_momentum, from_logits, task, metrics: As for
            `FGE`.

    Raises:
        ValueError, OSError: As for `FGE`, but a cycle may have an odd number of iterations.

    Example:
        sse = keras_fge.SnapshotEnsemble(0.1, cycle_epochs=2)
        model.fit(x, y, epochs=4, verbose=0, callbacks=[sse])
        sse.ensemble().evaluate(x_test, y_test)

    References:
        Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, https://arxiv.org/abs/1704.00109
    """

    min_learning_rate = 0.0

    def __init__(
        self,
        max_learning_rate: float,
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
        if not as_number("max_learning_rate", max_learning_rate) > 0:
            raise ValueError(f"`max_learning_rate` must be positive. Received: max_learning_rate={max_learning_rate}")
        others = validation_data, directory, resume, rescale_momentum, from_logits, task, metrics
        super().__init__(cycle_epochs, cycle_steps, start_epoch, *others)
        self.max_learning_rate = float(max_learning_rate)

    def learning_rate(self, step: Any, cycle_steps: int) -> Any:
        return cosine(step, self.max_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps: int) -> int:
        return cycle_steps
