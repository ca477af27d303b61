"""A study: trainings that resume, units of work, and their records."""

import contextlib
import io
import json
import os
import pathlib
import types

import keras
import numpy as np
import pytest

import curves
import keras_fge
import processes
from conftest import SLOW_BUT_ON_TORCH, SLOW_ON_TENSORFLOW, slow_on_jax, values
from inputs import data
from inputs.rows import CurveOnRows
from keras_fge.core.files import to_npz, write_atomically
from keras_fge.run.state import StateFile, training_state
from study import ensembles, progress, training, units
from study import records as records_module
from study.records import Records, locked
from study.units import Study
from test_benchmark_networks import images

ROOT = pathlib.Path(__file__).parent.parent


# --- Training ---------------------------------------------------------------------------------------------------------


class Interrupt(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            raise Interrupt


def small_settings():
    return types.SimpleNamespace(
        network="small_cnn_bn",
        width=4,
        weight_decay=1e-3,
        transform="resnet",
        learning_rate=0.05,
        momentum=0.9,
        batch_size=8,
        jit_compile="auto",
        steps_per_execution=1,
        images_on_device=False,
    )


@pytest.mark.parametrize("executions", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "what", [pytest.param("FGE", marks=SLOW_ON_TENSORFLOW), pytest.param("curve", marks=SLOW_BUT_ON_TORCH)]
)
def test_rows_of_images_on_the_device_train_as_the_images_themselves(what, executions, tmp_path):
    """The same batches, crops and flips; the members are read from their folder, and see images."""
    if executions > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras on torch has no `steps_per_execution`.")
    settings = small_settings()
    settings.steps_per_execution, settings.epochs = executions, 2
    x, y = images(48), np.arange(48) % 10
    dataset = data.Dataset("images", (x, y), None, (x, y), 10)

    def trained(name):
        settings.images_on_device, folder = name == "rows", str(tmp_path / name)
        if what == "FGE":
            network = training.new_network(settings, dataset, 3)
            fge = keras_fge.FGE(0.05, 0.005, cycle_steps=6, directory=folder)
            training.train_cyclic(network, fge, settings, dataset, 3)
            assert keras_fge.Ensemble.load(folder).predict(x) == pytest.approx(fge.ensemble().predict(x))
            return [array for snapshot in fge.snapshots for array in snapshot.weights]
        ends = [training.new_network(settings, dataset, seed) for seed in range(2)]
        keras.utils.set_random_seed(3)
        model = curves.connect(*ends, seed=3)
        if settings.images_on_device:
            model = CurveOnRows(model.body, seed=3)
        training.compile_model(model, settings, 0.05)
        training.train(model, settings, dataset, 2, 0.05, 3, folder)
        return model.weights_at(0.4)

    expected = trained("images")
    assert len(expected) > 10
    for ours, theirs in zip(trained("rows"), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["network", "curve"])
def test_an_interrupted_training_ends_with_the_same_weights(what, tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    settings = small_settings()
    data = types.SimpleNamespace(train=(images(20), np.arange(20) % 10), num_classes=10, largest_pixel=255)
    if what == "curve":
        ends = [training.new_network(settings, data, seed) for seed in range(2)]

    def make():
        if what == "network":
            return training.new_network(settings, data, 3)
        keras.utils.set_random_seed(3)
        model = curves.connect(*ends, seed=3)
        training.compile_model(model, settings, 0.05)
        return model

    def train(model, name, stop_at=None, until=None, first_epoch=0):
        arguments = (settings, data, 5, 0.05, 3, str(tmp_path / name), [StopAfter(stop_at)])
        history = training.train(model, *arguments, until=until, first_epoch=first_epoch)
        return {key: history_values[-1] for key, history_values in history.history.items()}

    expected = make()
    logs = train(expected, "whole")
    with pytest.raises(Interrupt):
        train(make(), "parts", 3)
    model = make()
    assert train(model, "parts") == pytest.approx(logs)
    for ours, theirs in zip(values(training_state(model)), values(training_state(expected))):
        assert np.array_equal(ours, theirs)
    again = make()
    assert train(again, "parts") == pytest.approx(logs)  # Nothing is left to do.
    assert np.array_equal(values(again.weights)[0], values(expected.weights)[0])
    # The first part of a training has a checkpoint of its own, from which another one can branch off.
    in_two = make()
    train(in_two, "first", until=2)
    train(in_two, "second", first_epoch=2)
    for ours, theirs in zip(values(training_state(in_two)), values(training_state(expected))):
        assert np.array_equal(ours, theirs)
    kept = []
    for name in ("first", "again"):
        kept.append(make())
        train(kept[-1], name, until=2)
    assert all(np.array_equal(a, b) for a, b in zip(*(values(training_state(model)) for model in kept)))


def test_training_takes_the_step_of_pytorch(tmp_path):
    """Against a loop of PyTorch's SGD in numpy: v = m v + g, w -= rate v, with the paper's rate for each epoch."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    w, velocity = values(network.weights)[0].astype("float64"), 0.0
    settings = types.SimpleNamespace(batch_size=24, images_on_device=False)  # One step an epoch, with all images.
    training.train(network, settings, types.SimpleNamespace(train=(x, y)), 20, 0.05, 3, str(tmp_path))
    for epoch in range(20):
        velocity = 0.9 * velocity + 2 / 24 * x.T.astype("float64") @ (x @ w - y)
        w = w - 0.05 * min(1, max(0.01, 1 - 0.99 * ((epoch + 1) / 20 - 0.5) / 0.4)) * velocity
    assert np.linalg.norm(values(network.weights)[0] - w) <= 1e-5 * np.linalg.norm(w)


@slow_on_jax
def test_a_training_whose_loss_is_not_finite_ends_before_its_state_is_written(tmp_path):
    settings = small_settings()
    data = types.SimpleNamespace(train=(images(20), np.arange(20) % 10), num_classes=10, largest_pixel=255)
    model = training.new_network(settings, data, 3)
    with pytest.raises(FloatingPointError, match="The training has diverged"):
        training.train(model, settings, data, 5, 1e30, 3, str(tmp_path))
    assert all(np.isfinite(value).all() for value in StateFile(tmp_path).read().values)


# --- Units ------------------------------------------------------------------------------------------------------------


def test_units_are_done_once_after_what_they_need(tmp_path):
    settings, done = types.SimpleNamespace(output_dir=str(tmp_path)), []
    study = units.Study(settings, None, Records(tmp_path, {}), progress.ProgressBars())

    def work(study, *key):
        done.append(key)
        return {"value": 1.0}

    network = units.Unit("network", (0,), work)
    curves_ = [units.Unit("curve", (name,), work, needs=(network,)) for name in ("bezier", "chain")]
    path = units.Unit("path", ("bezier",), work, needs=(curves_[0],))
    units.run(study, [path, *curves_])
    assert done == [(0,), ("bezier",), ("bezier",), ("chain",)]
    assert list(study.records.units) == ["network 0", "curve bezier", "path bezier", "curve chain"]
    units.run(study, [path])
    assert len(done) == 4


def test_what_another_process_does_is_waited_for_only_in_the_end(tmp_path, monkeypatch):
    settings = types.SimpleNamespace(output_dir=str(tmp_path))
    study = units.Study(settings, None, Records(tmp_path, {}), progress.ProgressBars())
    asked, done = [], []

    def work(study, key):
        done.append(key)
        return {}

    @contextlib.contextmanager
    def locked_by_another_at_first(path, wait):
        asked.append((os.path.basename(path), wait))
        yield wait or "network_1" not in path

    monkeypatch.setattr(units, "locked", locked_by_another_at_first)
    first, second = (units.Unit("network", (seed,), work) for seed in (1, 2))
    curve = units.Unit("curve", (3,), work, needs=(first,))
    units.run(study, [curve, second])
    assert done == [2, 1, 3]
    first_pass = [("network_1.lock", False), ("curve_3.lock", False), ("network_2.lock", False)]
    assert asked == [*first_pass, ("network_1.lock", True), ("curve_3.lock", True)]


# --- Records ----------------------------------------------------------------------------------------------------------


def append(records, experiment="ind", key=(0,), value=1.0):
    records.append(experiment, list(key), {"value": value}, 1.5, {"epochs": 2})


def test_records_are_lines_that_come_back(tmp_path):
    records = Records(tmp_path, {"epochs": 2})
    append(records)
    append(records, key=(1,), value=2.0)
    assert "ind 1" in records and "ind 2" not in records
    again = Records(tmp_path, {"epochs": 2})
    append(again, "fge", (0,), 3.0)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == 3
    read = Records(tmp_path)
    assert read.metrics("ind 1") == {"value": 2.0} and read.configuration == {"epochs": 2}
    assert [record["key"] for record in read.of("ind")] == [[0], [1]]
    assert len((tmp_path / "commands.jsonl").read_text().splitlines()) == 1  # Flags and configuration stand once.
    assert not any(name in lines[0] for name in ("flags", "packages", "epochs"))
    record = read.units["ind 0"]
    assert record == {**again.units["ind 0"]} and record["configuration"] == {"epochs": 2}
    assert record["wall_seconds"] == 1.5 and record["backend"] == keras.backend.backend()
    assert record["packages"]["keras"] == keras.__version__ and record["flags"] == {"epochs": 2}
    append(records, key=(1,), value=4.0)  # Another process did the same unit: the first one counts.
    assert Records(tmp_path).metrics("ind 1") == {"value": 2.0}


def test_records_of_another_configuration_and_damaged_ones(tmp_path):
    ours, others = {"epochs": 2, "data": {"sha256": "a"}}, {"epochs": 3, "data": {"sha256": "b"}}
    append(Records(tmp_path, ours))
    path = tmp_path / "records.jsonl"
    before = path.read_bytes()
    message = (
        r"configuration.json is of another configuration: --data={'sha256': 'a'} there, {'sha256': 'b'} here; --epoch"
    )
    with pytest.raises(ValueError, match=message):
        Records(tmp_path, others)
    for damage in (b"{}\n", b"[1]\n", b'"\xff\xfe\n', before[:100] + b"\n"):
        path.write_bytes(before + damage)
        with pytest.raises(
            ValueError, match=r"records.jsonl, line 2, is no record, or a damaged one. Remove that line"
        ):
            Records(tmp_path, ours)
        assert path.read_bytes() == before + damage
    bare = json.loads(before)
    del bare["checksum"]  # As it was before there were checksums.
    path.write_text(json.dumps(bare) + "\n")
    assert Records(tmp_path, ours).metrics("ind 0") == {"value": 1.0}
    path.write_text(json.dumps({**bare, "configuration": "0"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1, \(ind 0\) is of another configuration. Give"):
        Records(tmp_path, ours)
    path.write_text(json.dumps({**bare, "command": "0"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1, is of a command that is not in .*commands.jsonl. Remove that line"):
        Records(tmp_path, ours)
    path.write_bytes(before)
    (tmp_path / "commands.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"commands.jsonl, line 1, is no command, or a damaged one"):
        Records(tmp_path, ours)
    (tmp_path / "configuration.json").write_text("{")
    with pytest.raises(ValueError, match=r"configuration.json is no configuration, or a damaged one"):
        Records(tmp_path)


def test_half_a_line_of_a_killed_process_is_no_record(tmp_path):
    append(Records(tmp_path, {}))
    before = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(before + before[:50])
    records = Records(tmp_path, {})
    assert list(records.units) == ["ind 0"]
    append(records, key=(1,))
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 and lines[0] == before and json.loads(lines[1])["unit"] == "ind 1"


def test_no_changed_byte_goes_unnoticed(tmp_path):
    records = Records(tmp_path, {"epochs": 2})
    append(records)
    append(records, key=(1,), value=0.25)
    path = tmp_path / "records.jsonl"
    content = path.read_bytes()
    assert content.count(b'"checksum"') == 2
    generator = np.random.default_rng(0)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            read = Records(tmp_path)
        except ValueError as error:
            assert "records.jsonl, line " in str(error)
        else:  # As in the name of the checksum.
            assert {name: read.metrics(name) for name in read.units} == {
                "ind 0": {"value": 1.0},
                "ind 1": {"value": 0.25},
            }
    path.write_bytes(content[:-1])  # Only the end of the last line is missing.
    append(records, key=(2,))
    assert list(Records(tmp_path).units) == ["ind 0", "ind 1", "ind 2"]


def test_a_record_is_read_once_unless_lines_were_removed(tmp_path, monkeypatch):
    ours, theirs = Records(tmp_path, {}), Records(tmp_path, {})
    append(ours)
    append(theirs, key=(1,))
    assert list(theirs.units) == ["ind 0", "ind 1"]  # In the order of the file.
    parsed = []
    parse = records_module._parse
    monkeypatch.setattr(records_module, "_parse", lambda *given: parsed.append(given[1]) or parse(*given))
    ours.read()
    assert all("line 2," in where for where in parsed if ours.path in where)
    assert len(parsed) == 2  # With the command.
    ours.read()
    assert len(parsed) == 2
    assert list(ours.units) == ["ind 0", "ind 1"]
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[1])
    ours.read()
    assert list(ours.units) == ["ind 1"]


def test_numbers_that_json_does_not_know_come_back(tmp_path):
    records = Records(tmp_path, {})
    records.append("path", ["line"], {"loss": float("inf"), "ends": [1.0, float("nan")]}, 1.0, {})
    assert "null" in (tmp_path / "records.jsonl").read_text()
    metrics = Records(tmp_path).metrics("path line")
    assert np.isnan(metrics["loss"]) and metrics["ends"][0] == 1 and np.isnan(metrics["ends"][1])


@SLOW_BUT_ON_TORCH
def test_two_processes_do_not_do_the_same_unit(tmp_path):
    path = str(tmp_path / "unit.lock")
    code = f"from study.records import locked\nwith locked({path!r}, wait=False) as free: print(free)"

    def other():
        result = processes.run(code)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    with locked(path) as free:
        assert free and other() == "False"
    assert other() == "True"


def test_a_log_says_how_much_is_left(monkeypatch, capsys):
    bars = progress.ProgressBars()
    monkeypatch.setattr(progress, "console", progress.Console(width=110, file=io.StringIO()))
    bars.finished(2, 3, "ind 1", 0.2, 500)
    bars.finished(2, 3, "ind 1", 12.3, 170)
    bars.finished(3, 3, "ind 2", 12.3, 20)
    lines = progress.console.file.getvalue().splitlines()
    assert lines == ["unit 2 of 3, ind 1: 12 s; about 3 min left", "unit 3 of 3, ind 2: 12 s; less than a minute left"]


def test_the_time_left_is_that_of_units_of_a_kind(tmp_path):
    records = Records(tmp_path, {})
    names = [("ind", 0), ("ind", 1), ("fge", 0), ("ind ensemble", 1)]
    ordered = {unit.name: unit for unit in (units.Unit(kind, (key,), None) for kind, key in names)}
    records.append("ind", [0], {}, 10.0, {})
    assert units.seconds_left(records, ordered) == 20.0  # The other network, and FGE as long as a network.
    records.append("fge", [0], {}, 4.0, {})
    assert units.seconds_left(records, ordered) == 10.0


def test_differences_over_images_are_those_of_a_loop(tmp_path):
    """`paired`: the mean over runs and images, and the standard error over images, each side with a temperature."""
    rng = np.random.default_rng(0)
    labels = {"validation": rng.integers(0, 3, 80), "test": rng.integers(0, 3, 50)}
    splits = {name: (np.zeros((len(y), 1)), y) for name, y in labels.items()}
    data = types.SimpleNamespace(splits=splits, test=splits["test"])
    study = Study(types.SimpleNamespace(output_dir=str(tmp_path)), data, None, None)
    logits = {}
    for method in ("ind", "fge"):
        for seed in (0, 1):
            rows = {n: rng.normal(size=(len(y), 3)) + 2 * np.eye(3)[y] for n, y in labels.items()}
            predictions = {n: np.exp(r) / np.exp(r).sum(axis=1, keepdims=True) for n, r in rows.items()}
            logits[method, seed] = {n: np.log(p) for n, p in predictions.items()}
            path = ensembles.predictions_path(study, method, seed)
            write_atomically(path, to_npz(predictions))

    def losses(values, temperature):
        scaled = values["test"] / temperature
        return np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(50), labels["test"]]

    def best(values):
        y = labels["validation"]
        grid = np.exp(np.linspace(-2, 2, 4001))
        scaled = values["validation"][None] / grid[:, None, None]
        nll = np.log(np.exp(scaled).sum(axis=2)) - scaled[:, np.arange(80), y]
        return grid[nll.mean(axis=1).argmin()]

    wrong = {key: values["test"].argmax(axis=1) != labels["test"] for key, values in logits.items()}
    expected = {
        "error": [1.0 * wrong["fge", seed] - wrong["ind", seed] for seed in (0, 1)],
        "nll": [losses(logits["fge", seed], 1) - losses(logits["ind", seed], 1) for seed in (0, 1)],
        "calibrated_nll": [
            losses(logits["fge", seed], best(logits["fge", seed]))
            - losses(logits["ind", seed], best(logits["ind", seed]))
            for seed in (0, 1)
        ],
    }
    found = ensembles.measure_paired(study, "fge", 0, 1)
    for name, runs in expected.items():
        of_images = np.mean(runs, axis=0)
        assert found[name]["mean"] == pytest.approx(of_images.mean(), abs=2e-4)
        assert found[name]["se"] == pytest.approx(of_images.std(ddof=1) / 50**0.5, rel=2e-3)
