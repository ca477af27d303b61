"""The arithmetic of cycles, against counting step by step. No network and no backend is needed for it."""

import fractions

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fge.cycle import Cycle, check_arguments, length_in_steps, middle, start_of_cycles

pytestmark = pytest.mark.once


@given(st.integers(1, 40), st.data())
def test_snapshots_are_due_where_counting_finds_the_minimum(length, data):
    minimum = data.draw(st.integers(1, length))
    cycle, taken, last = Cycle(length, minimum), [], 0
    for step in range(1, 4 * length + 1):
        if cycle.is_due(step, last):
            taken.append(step)
            last = step
        assert cycle.snapshots_after(step) == len(taken)
    assert taken == [step for step in range(1, 4 * length + 1) if (step - 1) % length + 1 == minimum]


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 60))
def test_a_minimum_that_was_passed_is_due_at_the_next_look(length, looks, horizon):
    cycle, last, taken = Cycle(length, length), 0, 0
    for step in range(looks, horizon + 1, looks):
        if cycle.is_due(step, last):
            last, taken = step, taken + 1
    passed = {step // length for step in range(looks, horizon + 1, looks)} - {0}
    assert taken == len(passed)


def test_lengths():
    assert length_in_steps(None, 12, None) == 12 and length_in_steps(2, None, 5) == 10
    assert middle(10) == 5 and middle(2) == 1 and [start_of_cycles(calls, 3) for calls in (0, 2, 3, 7)] == [0, 0, 3, 6]
    with pytest.raises(ValueError, match="`cycle_epochs` needs data of known length"):
        length_in_steps(2, None, None)
    with pytest.raises(ValueError, match=r"A cycle must have at least 2 iterations, to have a minimum\. Received: 1"):
        middle(1)


@given(st.integers(2, 60))
def test_the_middle_has_the_smallest_rate_of_the_cycle(length):
    def rate(step):  # The formula of the paper, in exact fractions.
        t = fractions.Fraction((step - 1) % length + 1, length)
        return (1 - 2 * t) * 5 + 2 * t if t <= fractions.Fraction(1, 2) else (2 - 2 * t) + (2 * t - 1) * 5

    rates = {step: rate(step) for step in range(1, length + 1)}
    smallest = [step for step in rates if rates[step] == min(rates.values())]
    assert middle(length) == smallest[-1] and len(smallest) == 1 + length % 2


@given(st.sampled_from([1, 2]), st.integers(1, 6), st.integers(1, 40))
def test_the_cycle_that_an_error_names_fits_accumulation(kind, accumulated, length):
    cycle = Cycle(length + 1, middle(length + 1) if kind == 1 else length + 1)
    try:
        cycle.check_accumulation(accumulated)
    except ValueError as error:
        named = int(str(error).split("a multiple of ")[1].split()[0])
        Cycle(named, middle(named) if kind == 1 else named).check_accumulation(accumulated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, 0), "either `cycle_epochs` or `cycle_steps`"),
        ((2, 4, 0), "either `cycle_epochs` or `cycle_steps`"),
        ((True, None, 0), "`cycle_epochs` must be a positive integer"),
        ((None, 0, 0), "`cycle_steps` must be a positive integer"),
        ((2, None, -1), "`start_epoch` must be 0 or a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(*arguments)


def test_what_does_not_fit():
    cycle = Cycle(12, 6)
    cycle.check_executions(6, 3)
    with pytest.raises(ValueError, match="would fall inside an execution of steps_per_execution=4"):
        cycle.check_executions(6, 4)
    with pytest.raises(ValueError, match="would fall inside"):
        cycle.check_executions(5, 2)
    cycle.check_accumulation(3)
    with pytest.raises(ValueError, match=r"between two updates.*every gradient_accumulation_steps=4 .*multiple of 8"):
        cycle.check_accumulation(4)
    cycle.check_reached(0, 1, 6, 0)
    cycle.check_reached(0, 0, None, 0)
    cycle.check_reached(3, 1, 3, 0)
    with pytest.raises(ValueError, match="1 epochs of 5 steps from epoch 2 on and would end before the first snapshot"):
        cycle.check_reached(0, 1, 5, 2)
