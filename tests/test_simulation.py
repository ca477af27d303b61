"""The simulation of a study on many devices, on graphs whose times can be told by hand."""

import pytest

from evidence.simulation import MEASURED, RESTART, minutes_of, simulate
from study import presets
from study.units import Unit

pytestmark = pytest.mark.once
GRAPH = {"a": (4.0, 1.0, []), "b": (1.0, 1.0, []), "c": (1.0, 1.0, []), "d": (3.0, 1.0, ["b"])}
GRAPH["pool"] = (0.0, 0.0, ["a", "d"])  # Takes no time, and nobody pays for it.


@pytest.mark.parametrize(
    ("gpus", "in_order", "minutes", "paid"),
    [
        (1, False, 9.0, 9.0),
        (2, False, 5.0, 9.0),  # a and c on one, b and d on the other.
        (2, True, 5.0, 9.0),
        (3, False, 4.0, 9.0),  # The third has c alone, and is given back after a minute.
        (9, False, 4.0, 9.0),
    ],
)
def test_graphs_that_can_be_told_by_hand(gpus, in_order, minutes, paid):
    assert simulate(GRAPH, gpus, in_order=in_order) == (minutes, paid, 9.0, 0)


def test_workers_in_order_may_begin_with_what_is_short():
    tasks = {"short": (1.0, 0.0, []), "other": (1.0, 0.0, []), "long": (4.0, 0.0, [])}
    assert simulate(tasks, 2)[0] == 4.0 and simulate(tasks, 2, in_order=True)[0] == 5.0


def test_what_is_taken_away_costs_a_start_and_half_an_epoch():
    minutes, _, worked, count = simulate({"a": (600.0, 4.0, [])}, 1, preemptions=1.0)
    assert count > 0 and minutes == worked == 600 + count * (RESTART + 2)


def test_stragglers_differ_by_seed_and_take_as_long_in_the_middle():
    times = sorted(simulate({"a": (1.0, 0.0, [])}, 1, stragglers=0.2, seed=seed)[0] for seed in range(400))
    assert times[0] < 0.7 and times[-1] > 1.4 and times[200] == pytest.approx(1, abs=0.05)


def test_measured_steps_replace_computed_ones():
    class Settings:
        network, epochs, fge_start_epoch = "vgg16", 200, presets.PRESETS["vgg16_cifar10"]["fge_start_epoch"]

    ind, fge, curve = (minutes_of(Unit(name, (), None), Settings) for name in ("ind", "fge", "curve"))
    assert ind == pytest.approx(MEASURED["vgg16"] / 1000 * 200 * 391 / 60)
    assert fge == pytest.approx(ind * 44 / 200) and curve == pytest.approx(3 * ind)
