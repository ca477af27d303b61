"""Cycles of steps: how long they are, where their minimum lies, when a snapshot is due. Arithmetic, without Keras."""

import dataclasses

from keras_fge.core.arguments import as_integer


def check_arguments(cycle_epochs: int | None, cycle_steps: int | None, start_epoch: int) -> None:
    """Raises a ValueError unless one length of a cycle is given, as a positive integer, and a start from 0 on."""
    if (cycle_epochs is None) == (cycle_steps is None):
        raise ValueError(
            "Give the length of a cycle as either `cycle_epochs` or `cycle_steps`. "
            f"Received: cycle_epochs={cycle_epochs}, cycle_steps={cycle_steps}"
        )
    lengths = {"cycle_epochs": cycle_epochs} if cycle_steps is None else {"cycle_steps": cycle_steps}
    for name, value in lengths.items():
        as_integer(name, value)
    as_integer("start_epoch", start_epoch, least=0)


def length_in_steps(cycle_epochs: int | None, cycle_steps: int | None, steps_per_epoch: int | None) -> int:
    """The length of a cycle in steps.

    Raises:
        ValueError: if it is given in epochs, and nobody knows how many steps an epoch has.
    """
    if cycle_steps is not None:
        return cycle_steps
    if cycle_epochs is None or steps_per_epoch is None:
        raise ValueError(
            "`cycle_epochs` needs data of known length, but fit does not know the number of batches of an epoch. "
            "Use `cycle_steps`, or pass `steps_per_epoch` to fit."
        )
    return cycle_epochs * steps_per_epoch


def middle(cycle_steps: int) -> int:
    """The step of FGE's minimum: c/2, or (c + 1)/2, the second of the two steps with the smallest rate, if c is odd.

    Raises:
        ValueError: if c is 1: the rate would be the largest one all the time.
    """
    if cycle_steps < 2:
        raise ValueError(f"A cycle must have at least 2 iterations, to have a minimum. Received: {cycle_steps}")
    return (cycle_steps + 1) // 2


def start_of_cycles(calls: int, accumulated: int) -> int:
    """The call of the optimizer with which the cycles begin, after `calls` calls.

    A group of accumulated gradients that has begun belongs to the first update of the cycle.
    """
    return calls - calls % accumulated


@dataclasses.dataclass(frozen=True)
class Cycle:
    """A cycle of `length` steps, whose snapshot is due after the step `minimum`, from 1 to `length`.

    Steps are counted from the start of the cycles on: 1, 2, ...
    """

    length: int
    minimum: int

    def snapshots_after(self, step: int) -> int:
        """How many snapshots were due in the steps 1 to `step`."""
        return (step - self.minimum) // self.length + 1

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether a snapshot became due after `last_step`, the step of the last one, and up to `step`.

        It became due just now, unless a `LossScaleOptimizer` skipped an update in an execution of several steps: then
        it may be a few steps ago.
        """
        return self.snapshots_after(step) > self.snapshots_after(last_step)

    def check_executions(self, steps_per_epoch: int | None, steps_per_execution: int) -> None:
        """Raises a ValueError unless each snapshot falls between two executions of the compiled function."""
        if steps_per_epoch is None and steps_per_execution > 1:
            raise ValueError(
                f"The length of an epoch is not known, so its last execution may have less than "
                f"steps_per_execution={steps_per_execution} steps, and a snapshot fall inside a later one: pass "
                "`steps_per_epoch` to `fit`, or compile with steps_per_execution=1."
            )
        moments = [self.length, self.minimum]
        whole_epochs = [steps_per_epoch] if steps_per_epoch else []
        if any(steps % steps_per_execution for steps in moments + whole_epochs):
            raise ValueError(
                f"The snapshot after {self.minimum} of the {self.length} steps of a cycle would fall inside an "
                f"execution of steps_per_execution={steps_per_execution} steps. Compile with a `steps_per_execution` "
                f"that divides {', '.join(map(str, moments + whole_epochs))}, such as 1."
            )

    def check_accumulation(self, accumulated: int) -> None:
        """Raises a ValueError unless each snapshot follows an update: there is one every `accumulated` steps."""
        if self.length % accumulated or self.minimum % accumulated:
            raise ValueError(
                f"The snapshot after {self.minimum} of the {self.length} steps of a cycle would fall between two "
                f"updates, which come every gradient_accumulation_steps={accumulated} steps. Use a cycle of a multiple "
                f"of {accumulated if self.minimum == self.length else 2 * accumulated} steps."
            )

    def check_reached(self, steps_done: int, epochs_left: int, steps_per_epoch: int | None, start_epoch: int) -> None:
        """Raises a ValueError if the training ends before the first snapshot; `start_epoch` is for the error."""
        if steps_per_epoch and steps_done + epochs_left * steps_per_epoch < self.minimum:
            start = f" from epoch {start_epoch} on" if start_epoch else ""
            raise ValueError(
                f"This fit has {epochs_left} epochs of {steps_per_epoch} steps{start} and would end before the first "
                f"snapshot, which is due after {self.minimum} steps. Train longer, or use a shorter cycle."
            )
