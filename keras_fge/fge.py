"""`FGE` and `SnapshotEnsemble`: the two kinds of cyclic runs, as callbacks of `fit`."""

import functools
from typing import Any, Unpack

from keras_fge.core.arguments import as_number
from keras_fge.cycle import middle
from keras_fge.cyclic import CyclicEnsemble, Options
from keras_fge.schedule import cosine, triangular


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
        cycle_steps: Length c of a cycle in iterations, instead of `cycle_epochs`; at least 2. If c is odd, two steps,
            (c - 1)/2 and (c + 1)/2, have the same smallest rate, and weights are collected after the second.
        **options: `start_epoch`, `validation_data`, `directory`, `resume`, `rescale_momentum`, `from_logits`, `task`,
            `metrics` and `comparison`: see `CyclicEnsemble`.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the cycle does not fit
            `steps_per_execution` or gradient accumulation, or is so long that no snapshot would be taken; if the
            optimizer has several learning rates, or is driven by another such callback; if `directory` holds the run of
            another network or with other settings.
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
        **options: Unpack[Options],
    ):
        if max_learning_rate is None and min_learning_rate is not None:
            raise ValueError(
                f"`min_learning_rate` needs `max_learning_rate`. Received: min_learning_rate={min_learning_rate}"
            )
        cycle_epochs = 2 if cycle_epochs is None and cycle_steps is None else cycle_epochs
        super().__init__(cycle_epochs, cycle_steps, **options)
        if cycle_steps is not None:
            middle(cycle_steps)  # Raises an error, if it is 1.
        self._chooses_rates = max_learning_rate is None
        if not self._chooses_rates:
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

    def _choose_rates(self, rate: float) -> None:
        self._set_rates(rate, rate / 100)

    def schedule(self, cycle_steps: int) -> Any:
        rates = {"max_learning_rate": self.max_learning_rate, "min_learning_rate": self.min_learning_rate}
        return functools.partial(triangular, **rates, cycle_steps=cycle_steps)

    def _minimum(self, cycle_steps):
        return middle(cycle_steps)


class SnapshotEnsemble(CyclicEnsemble):
    """Snapshot Ensembles (SSE) as a callback of `model.fit`: cosine cycles, a snapshot at the end of each.

    The learning rate follows `keras_fge.cosine`. Usually the whole training consists of a few long cycles.

    Args:
        max_learning_rate: alpha_0, at the start of each cycle.
        cycle_epochs: Length of a cycle in epochs.
        cycle_steps: Length of a cycle in iterations, instead of `cycle_epochs`.
        **options: As for `FGE`; see `CyclicEnsemble`.

    Raises:
        ValueError, OSError: As for `FGE`.

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
        **options: Unpack[Options],
    ):
        if not as_number("max_learning_rate", max_learning_rate) > 0:
            raise ValueError(f"`max_learning_rate` must be positive. Received: max_learning_rate={max_learning_rate}")
        super().__init__(cycle_epochs, cycle_steps, **options)
        self.max_learning_rate = float(max_learning_rate)

    def schedule(self, cycle_steps: int) -> Any:
        return functools.partial(cosine, max_learning_rate=self.max_learning_rate, cycle_steps=cycle_steps)

    def _minimum(self, cycle_steps):
        return cycle_steps
