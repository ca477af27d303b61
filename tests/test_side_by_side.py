"""Networks that train side by side in one program are those that train one after the other."""

import ast
import dataclasses
import pathlib
import types

import keras
import numpy as np
import pytest

from evidence import baseline_methods
from evidence.baseline_methods import TASKS, fge, one_network
from inputs.data import Dataset
from report import baselines

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks/results"


@pytest.mark.on("jax")
def test_networks_and_members_of_fge_are_those_of_one_after_the_other(monkeypatch):
    from evidence import many_seeds

    for module in (baseline_methods, many_seeds):
        monkeypatch.setattr(module, "BATCH_SIZE", 16)
    fit = keras.Model.fit  # By itself it takes the batches in another order.
    monkeypatch.setattr(keras.Model, "fit", lambda *given, **named: fit(*given, **{**named, "shuffle": False}))
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (56, 8, 8, 1), "uint8"), np.arange(56) % 10
    images, task = Dataset("noise", part, part, part, 10), dataclasses.replace(TASKS["fashion"], epochs=7)
    one, cycles = {"rate": 0.05, "decay": 1e-3, "epochs": 6}, {"start": 2, "cycle": 2, "largest": 0.1}
    network, members = many_seeds.train_both(
        images, (0, 3), one, {"rate": 0.05, "decay": 1e-3, **cycles}, part[0], task
    )
    assert members.shape == (3, 2, 56, 10)
    for number, seed in enumerate((0, 3)):
        expected, _ = one_network(task, images, seed, **one)["one network"]
        np.testing.assert_allclose(network[number], expected(part[0])[0], atol=1e-5)
        expected, _ = fge(task, images, seed, 0.05, 1e-3, **cycles)["FGE"]
        np.testing.assert_allclose(members[:, number], np.stack(expected(part[0])), atol=1e-5)


@pytest.mark.once
def test_fge_can_branch_off_one_network_at_the_committed_settings():
    found = baselines.records(RESULTS / "baselines")
    one, cycles = (ast.literal_eval(found[method][0]) for method in ("one network", "FGE"))
    assert (one["rate"], one["decay"]) == (cycles["rate"], cycles["decay"])
    assert cycles["start"] <= one["epochs"] / 2  # Up to there the rate is constant.


@pytest.mark.slow
@pytest.mark.on("jax")
def test_the_measurement_of_its_time_runs():
    from speed.side_by_side import side_by_side

    settings = types.SimpleNamespace(batch_size=8, seed=0, steps=1, turns=2, jit_compile="auto", members=[2])
    ratios = side_by_side("small_cnn", settings)["ratios"]
    assert list(ratios) == ["2 trained", "2 predict"] and all(ratio["median"] > 0 for ratio in ratios.values())
