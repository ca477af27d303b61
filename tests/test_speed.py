"""The measurements of speed: who takes turns, what is compared, and that the networks by hand are ours."""

import contextlib
import gc
import json
import os
import types

import keras
import numpy as np
import pytest

import curves
from conftest import SLOW_ELSEWHERE
from inputs.networks import make_network
from speed import evaluation, layout, profile, size, tables, training, turns

# What is timed is the same everywhere; on the other backends, only `make test-slow` looks.
pytestmark = SLOW_ELSEWHERE

SETTINGS = types.SimpleNamespace(batch_size=8, seed=0, steps=1, turns=2, jit_compile="auto", points=[2], members=[2])


def test_pieces_of_work_take_turns_and_the_first_does_not_count():
    calls = []
    seconds = turns.take_turns(2, {name: lambda name=name: calls.append(name) for name in "ab"})
    assert calls == list("ababab") and {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_the_time_of_a_fit_is_that_of_its_later_epochs(monkeypatch):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ones, clock, seconds = np.ones((4, 1)), [0.0], iter([30.0, 1.0, 4.0, 2.0])
    monkeypatch.setattr(turns, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))

    def work(epoch, logs):  # Of a callback of the fit: its time counts.
        clock[0] += next(seconds)

    fit = turns.later_epochs(model, (ones, ones), lambda: [keras.callbacks.LambdaCallback(on_epoch_end=work)])
    assert fit() == 2.0


def test_ratios_are_those_of_the_same_turn():
    result = turns.compared({"a": [1.0, 2.0, 4.0], "b": [2.0, 6.0, 4.0]}, {"b": "a"})
    assert result["ratios"]["b"] == {"to": "a", "median": 2.0, "low": 1.5, "high": 2.5, "fastest": 2.0}
    assert result["seconds"]["a"]["median"] == 2.0


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch is only in the environment of that backend")
@pytest.mark.parametrize(
    "name", ["vgg16", "preresnet20", "preresnet110", "convfc", "small_cnn", "small_cnn_bn", "wrn28x10"]
)
def test_networks_by_hand_are_ours(name):
    from speed import handwritten

    ours = make_network(name, (32, 32, 3), 10)
    theirs = handwritten.make_network(name)
    assert sum(w.numel() for w in theirs.parameters()) == sum(int(np.prod(w.shape)) for w in ours.trainable_variables)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch is only in the environment of that backend")
def test_a_step_by_hand_on_the_curve_is_ours():
    """From equal bends: the loss at any t is that of the network, and falls; the network itself stays as it is."""
    import torch

    from speed import handwritten

    torch.manual_seed(0)
    network = handwritten.make_network("small_cnn").eval()  # No dropout.
    start = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    step = handwritten.make_step(network, True, False, contextlib.nullcontext())
    before = step(x, y)
    after = step(x, y)
    assert float(before) == pytest.approx(float(torch.nn.functional.cross_entropy(network(x), y)), rel=1e-5)
    assert float(after) < float(before)
    assert all(torch.equal(start[name], weight) for name, weight in network.named_parameters())


def test_the_obvious_loop_estimates_the_same_statistics():
    model, train, _ = evaluation.curve_and_data("small_cnn_bn", SETTINGS)
    other = model.network_at(0.3)
    norms = [layer for layer in other.layers if isinstance(layer, keras.layers.BatchNormalization)]
    evaluation._reestimate(other, norms, train[0], 8)
    expected = model.network_at(0.3)
    curves.update_batch_norm(expected, train, 8)
    for ours, theirs in zip(expected.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("measure", "network"),
    [
        pytest.param(training.curve, "small_cnn", marks=pytest.mark.slow),
        pytest.param(training.short_epochs, "small_cnn", marks=pytest.mark.slow),
        pytest.param(training.fge, "small_cnn", marks=pytest.mark.slow),
        pytest.param(training.pipeline, "small_cnn_bn", marks=pytest.mark.slow),
        pytest.param(evaluation.path, "small_cnn_bn", marks=pytest.mark.slow),
        pytest.param(evaluation.plane, "small_cnn_bn", marks=pytest.mark.slow),
        (evaluation.ensemble, "small_cnn"),
    ],
)
def test_measurements_run(measure, network):
    result = measure(network, SETTINGS)
    assert result["ratios"] and all(ratio["median"] > 0 for ratio in result["ratios"].values())
    json.dumps(result)


@pytest.mark.slow
def test_growth_runs():
    parts = size.growth("small_cnn", SETTINGS)["parts"]
    assert list(parts["bends"]["seconds"]) == [str(bends) for bends in range(1, 10)]
    assert [len(parts[part]["seconds"]) for part in ("points", "members", "weights")] == [4, 6, 10]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read on Linux only")
def test_peak_memory_is_that_of_each_process():
    megabytes = size.memory("small_cnn", SETTINGS)["megabytes"]
    assert len(megabytes) == 8 and megabytes["plain"] > 1 and megabytes["curve of 3"] > 1


def test_tables_show_the_median_and_the_quartiles(tmp_path):
    ratio = {"to": "plain", "median": 1.04, "low": 1.0, "high": 1.126, "fastest": 1.021}
    record = {"networks": {"convfc": {"ratios": {"curve of 3": ratio}}}}
    (tmp_path / "curve_jax.json").write_text(json.dumps(record))
    table = tables.ratios("curve", tmp_path)
    assert table.splitlines()[0] == "| network, backend | curve of 3 |"
    assert table.splitlines()[2] == "| convfc, JAX | 1.04 (1.00 to 1.13; 1.02) |"


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="it is about Keras on torch")
def test_the_copies_that_are_left_out_change_nothing():
    settings = types.SimpleNamespace(**vars(SETTINGS) | {"torch_python": None})
    assert set(layout.layout("small_cnn", settings)["ratios"]) == {"Keras", "Keras without copies"}
    found, counts = [], []
    for context in (contextlib.nullcontext(), layout.no_copies()):
        keras.utils.set_random_seed(0)
        model = training.network("small_cnn", settings)
        with context as left_out:
            model.fit(*training.images(settings, 4), batch_size=8, verbose=0, shuffle=False)
        found.append(model.get_weights())
        counts.append(left_out)
    for with_copies, without in zip(*found):
        np.testing.assert_allclose(without, with_copies, rtol=1e-5, atol=1e-7)
    assert len(counts[1]) >= 4 * 6  # Four convolutions and two poolings a step.


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="it compares ways that only JAX has")
def test_loops_around_a_step():
    result = training.loop("small_cnn", types.SimpleNamespace(**{**vars(SETTINGS), "steps": 2, "turns": 1}))
    assert set(result["ratios"]) == set(result["seconds"]) - {"fit"} and len(result["ratios"]) == 7
    for case, ratio in result["ratios"].items():
        assert ratio["to"] == ("an epoch in one program" if "rows" in case else "fit") and ratio["median"] > 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it reads the operations of TensorFlow")
def test_a_profile_tells_the_parts_of_a_step_apart():
    settings = types.SimpleNamespace(**{**vars(SETTINGS), "jit_compile": False})
    milliseconds = profile.profile("small_cnn", settings)["milliseconds"]
    assert list(milliseconds) == ["plain", "curve of 3", "curve of 5"]
    assert milliseconds["plain"][profile.COMBINATION] == 0 < milliseconds["curve of 3"][profile.COMBINATION]
    for parts in milliseconds.values():
        assert parts[profile.LAYERS] > parts[profile.REST] and parts[profile.UPDATE] > 0


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        ("StatefulPartitionedCall/gradient_tape/curve_model_1/curve_1/vgg16_bn_1/conv2d_2/Conv2D:Conv2D", "layers"),
        ("StatefulPartitionedCall/curve_model_1/curve_1/mul_62:Mul", "bends"),
        ("StatefulPartitionedCall/sgd_3/Mul_12:Mul", "update"),
        ("StatefulPartitionedCall/SGD/Mul_12:Mul", "update"),
        ("StatefulPartitionedCall/Cast:Cast", profile.REST),
    ],
)
def test_the_scopes_of_an_operation_say_its_part(operation, part):
    assert profile.part_of(operation, {"layers": "vgg16_bn", "bends": "curve_model", "update": "sgd"}) == part


def test_garbage_is_searched_for_again_after_an_error():
    before, seconds = gc.get_freeze_count(), [1.0]
    with pytest.raises(IndexError):
        turns.take_turns(1, {"a": seconds.pop})  # There is no second one.
    assert gc.get_freeze_count() == before


def test_operations_of_a_step_of_vgg16():
    """Its 313.7 million products an image are published; those of the first layer are 9 x 3 x 64 x 32 x 32."""
    expected = 2 * 128 * (3 * 313.7e6 - 9 * 3 * 64 * 32**2) / 1e12
    assert tables.operations("vgg16", 128) == pytest.approx(expected, rel=1e-3)


def test_a_process_by_hand_that_ends_is_an_error_that_names_it(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    by_hand = training.Handwritten("small_cnn", types.SimpleNamespace(**{**vars(SETTINGS), "torch_python": python}))
    with pytest.raises(RuntimeError, match=r"speed.handwritten --network=small_cnn .* ended; it says above why"):
        by_hand()
    by_hand.close()
