"""Paths against measurements of the plain networks on them."""

import dataclasses
import tracemalloc

import keras
import numpy as np
import pytest
import scipy.optimize

import curves
import keras_fge
from conftest import batch_norm_network, logits_loss, slow_but_on_torch, slow_on_tensorflow, to_numpy, values
from curves.measuring import Meter


def compiled(model):
    model.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"])
    return model


@slow_on_tensorflow
def test_every_point_is_the_measurement_of_the_network_there(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, weight_decay=0.01, seed=0))
    model.fit(x, y, epochs=1, verbose=0)
    result = curves.evaluate_path(model, (x, y), (x[:20], y[:20]), num_points=5, batch_size=25, verbose=False)
    assert result.t == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for j, t in enumerate(result.t):
        network = model.network_at(t)
        if 0 < t < 1:
            curves.update_batch_norm(network, (x, y), batch_size=25)
        squares = sum(np.sum(v.astype("float64") ** 2) for v in values(network.trainable_variables))
        network.compile(loss=logits_loss(), metrics=["accuracy"])
        for split, data in (("train", (x, y)), ("test", (x[:20], y[:20]))):
            measured = network.evaluate(*data, verbose=0, return_dict=True)
            values_at = {name: array[j] for name, array in getattr(result, split).items()}
            assert values_at["loss"] == pytest.approx(measured["loss"] + 0.005 * squares, rel=1e-4)
            logits = network.predict(data[0], verbose=0).astype("float64")
            log_softmax = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
            assert values_at["nll"] == pytest.approx(-log_softmax[np.arange(len(data[1])), data[1]].mean(), rel=1e-3)
            assert values_at["error"] == pytest.approx(np.mean(np.argmax(logits, axis=1) != data[1]), abs=1e-6)
    assert result.arc_length == pytest.approx(model.arc_length(num_points=5), rel=1e-6)
    assert result.straight_distance == pytest.approx(model.arc_length(num_points=2), rel=1e-6)


@slow_on_tensorflow
def test_model_stands_where_it_stood_also_after_an_error(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, seed=0))
    model.t.assign(0.2)
    before = values(model.variables)
    curves.evaluate_path(model, (x, y), (x, y), num_points=2, verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.variables)))

    class Interrupted(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise KeyboardInterrupt
            return x[:10], y[:10]

    with pytest.raises(BaseException):  # noqa: B017 - TensorFlow wraps it in an error of its own
        curves.evaluate_path(model, (x, y), Interrupted(), num_points=2, verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.variables)))
    assert float(to_numpy(model.t)) == pytest.approx(0.2)


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Dense):
    """Counts how often its Python code runs: once for each time that a function around it is compiled."""

    runs = 0

    def call(self, inputs, training=None):
        Counting.runs += 1
        return super().call(inputs, training)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras does not compile on torch")
@pytest.mark.parametrize("kind", ["path", pytest.param("plane", marks=slow_on_tensorflow)])
def test_number_of_compilations_does_not_depend_on_the_number_of_points(kind):
    x, y = np.ones((20, 4), "float32"), np.zeros(20, int)
    runs = []
    for num_points in (2, 5):
        ends = []
        for _ in range(3):
            ends.append(
                keras.Sequential(
                    [keras.Input((4,)), keras.layers.BatchNormalization(), Counting(3, activation="softmax")]
                )
            )
        model = curves.connect(*ends[:2])
        model.set_bend(1, ends[2])
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        Counting.runs = 0
        function = curves.evaluate_path if kind == "path" else curves.evaluate_plane
        function(model, (x, y), (x, y), num_points=num_points, batch_size=10, verbose=False)
        runs.append(Counting.runs)
    assert runs[0] == runs[1] > 0


@slow_on_tensorflow
def test_sample_weights_and_generators(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end))
    weights = np.linspace(0, 2, len(x))
    result = curves.evaluate_path(model, (x, y, weights), (x, y), num_points=2, verbose=False)
    model.t = 1.0
    measured = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert result.train["loss"][-1] == pytest.approx(measured["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="`test` is read many times"):
        curves.evaluate_path(model, (x, y), iter([(x, y)]), num_points=2, verbose=False)


def probabilities(network, x):
    logits = network.predict(x, verbose=0).astype("float64")
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@slow_on_tensorflow
@pytest.mark.parametrize("labels", ["integers", "one-hot"])
def test_ensembles_along_the_path(trained, labels):
    start, end, x, y = trained
    model = curves.connect(start, end, seed=0)
    model.set_bend(1, batch_norm_network())
    targets, loss = y, logits_loss()
    if labels == "one-hot":
        targets, loss = np.eye(3)[y], keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    result = curves.evaluate_path(model, (x, targets), (x, targets), num_points=4, batch_size=50, verbose=False)
    members = []
    for t in result.t:
        network = model.network_at(t)
        if 0 < t < 1:
            curves.update_batch_norm(network, (x, y), batch_size=50)
        members.append(probabilities(network, x))
    for j in range(4):
        for name, chosen in (("with_start", [members[0], members[j]]), ("so_far", members[: j + 1])):
            mean = np.mean(chosen, axis=0)
            assert result.ensemble[f"{name}_error"][j] == pytest.approx(np.mean(mean.argmax(axis=1) != y))
            nll = -np.log(mean[np.arange(len(y)), y]).mean()
            assert result.ensemble[f"{name}_nll"][j] == pytest.approx(nll, rel=1e-4)
    assert result.ensemble["with_start_error"][0] == pytest.approx(result.test["error"][0])


def test_regression():
    def network():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    model = curves.connect(network(), network(), curves.PolygonalChain(2))
    model.compile(loss="mse", metrics=["mae"])
    result = curves.evaluate_path(model, (x, x[:, :2]), (x, x[:, :2]), num_points=3, verbose=False)
    assert set(result.test) == {"loss", "mse", "mae"}
    assert set(result.ensemble) == {"with_start_mse", "so_far_mse"}
    mean = np.mean([x @ kernel + bias for kernel, bias in map(model.weights_at, (0, 0.5))], axis=0)
    assert result.ensemble["with_start_mse"][1] == pytest.approx(np.square(mean - x[:, :2]).mean(), rel=1e-5)
    kernel, bias = model.weights_at(0.5)
    residuals = x @ kernel + bias - x[:, :2]
    assert result.test["mae"][1] == pytest.approx(np.abs(residuals).mean(), rel=1e-5)
    assert result.train["loss"][1] == pytest.approx(np.square(residuals).mean(), rel=1e-5)
    figure = result.plot(line=result)
    assert [axes.get_ylabel() for axes in figure.axes] == ["train loss", "test loss", "mean squared test error"]


@slow_on_tensorflow
def test_subsets(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end))
    arguments = {"num_points": 3, "batch_size": 50, "verbose": False}
    result = curves.evaluate_path(model, (x, y), (x, y), train_samples=30, bn_samples=20, **arguments)
    chosen = [np.sort(np.random.default_rng(0).choice(50, n, replace=False)) for n in (30, 20)]
    network = model.network_at(0.5)
    curves.update_batch_norm(network, (x[chosen[1]], y[chosen[1]]), batch_size=50)
    network.compile(loss=logits_loss(), metrics=[])
    expected = network.evaluate(x[chosen[0]], y[chosen[0]], verbose=0)
    assert result.train["loss"][1] == pytest.approx(expected, rel=1e-5)
    assert (result.settings["train_samples"], result.settings["bn_samples"]) == (30, 20)
    with pytest.raises(ValueError, match="`bn_samples` must lie between 1 and the 50 samples"):
        curves.evaluate_path(model, (x, y), (x, y), bn_samples=51, **arguments)
    with pytest.raises(ValueError, match="`train_samples` needs `train` as arrays"):
        curves.evaluate_path(model, Batches(x, y), (x, y), train_samples=5, **arguments)


class Batches(keras.utils.PyDataset):
    """Batches of 10; `fail_at` counts the batches of all passes."""

    def __init__(self, x, y, fail_at=None):
        super().__init__()
        self.x, self.y, self.fail_at, self.count = x, y, fail_at, 0

    def __len__(self):
        return len(self.x) // 10

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.fail_at:
            raise RuntimeError("power cut")
        return self.x[10 * index : 10 * index + 10], self.y[10 * index : 10 * index + 10]


@slow_but_on_torch
@pytest.mark.parametrize("kind", ["path", "plane"])
def test_interrupted_measurement_goes_on_where_it_stopped(trained, tmp_path, kind, monkeypatch):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, seed=0))
    model.set_bend(1, batch_norm_network())
    measure, calls = Meter.measure, []

    def counted(meter):
        calls.append(None)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return measure(meter)

    def run(path, **arguments):
        function = curves.evaluate_path if kind == "path" else curves.evaluate_plane
        return function(model, (x, y), (x, y), num_points=4, file=path, verbose=False, **arguments)

    limit = None
    monkeypatch.setattr(Meter, "measure", counted)
    whole, path, total = run(None), tmp_path / "points.npz", len(calls)
    calls, limit = [], 3
    with pytest.raises(KeyboardInterrupt):
        run(path)
    cls = type(whole)
    with pytest.raises(ValueError, match=f"holds 2 of {total} points. Call the function"):
        cls.load(path)
    for change, message in (
        ({"bn_samples": 20}, "its bn_samples is None, here it is 20"),
        ({"batch_size": 64}, "its batch_size is 128, here it is 64"),
    ):
        with pytest.raises(ValueError, match=f"holds another measurement: {message}"):
            run(path, **change)
    calls, limit = [], None
    resumed = run(path)
    assert len(calls) == total - 2
    calls = []
    for result in (resumed, cls.load(path), run(path)):
        assert result.summary() == whole.summary() and result.settings == whole.settings
        for split in ("train", "test", *(["ensemble"] if kind == "path" else [])):
            for name, array in getattr(whole, split).items():
                assert np.array_equal(getattr(result, split)[name], array), name
    assert not calls  # The finished file was read.
    model.set_bend(1, batch_norm_network())
    with pytest.raises(ValueError, match="holds another measurement: its model is"):
        run(path)
    other = curves.PlaneResult if kind == "path" else curves.PathResult
    with pytest.raises(ValueError, match=f"must be a file of a {other.__name__}"):
        other.load(path)


@slow_but_on_torch
def test_files_that_cannot_be_used(trained, tmp_path):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end))

    def run(path):
        return curves.evaluate_path(model, (x, y), (x, y), num_points=2, file=path, verbose=False)

    with pytest.raises(FileNotFoundError):
        run(tmp_path / "missing" / "path.npz")
    (tmp_path / "text.npz").write_text("not a result")
    with pytest.raises(ValueError, match=r"is no .npz file, or a damaged one"):
        run(tmp_path / "text.npz")
    run(tmp_path / "path.npz")
    content = (tmp_path / "path.npz").read_bytes()
    (tmp_path / "path.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"is no .npz file, or a damaged one"):
        run(tmp_path / "path.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="`file` must be new or a file of this function"):
        run(tmp_path / "other.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.npz", "path.npz", "text.npz"]


def result():
    t = np.linspace(0, 1, 5)
    train = {"loss": np.array([1.0, 3.0, 5.0, 2.0, 2.0]), "nll": np.array([0.5, 2.5, 4.5, 1.5, 1.5])}
    test = {"loss": 2 * train["loss"], "error": np.array([0.1, 0.3, 0.6, 0.2, 0.2])}
    ensemble = {"with_start_error": np.array([0.1, 0.2, 0.3, 0.1, 0.1])}
    return curves.PathResult(t, np.array([0.0, 1.0, 2.0, 3.0, 5.0]), 4.0, train, test, ensemble, {"num_points": 5})


def test_barrier_lengths_and_summary():
    assert result().barrier() == 3.0  # 5 - max(1, 2)
    assert result().barrier("test", "error") == pytest.approx(0.4)
    summary = result().summary()
    assert summary["train_loss_min"] == 1.0 and summary["train_loss_max"] == 5.0
    assert summary["train_loss_barrier"] == 3.0
    assert summary["train_loss_mean"] == (0.5 * 1 + 3 + 5 + 2 + 0.5 * 2) / 4
    assert summary["train_loss_length_mean"] == (2 + 4 + 3.5 + 2 * 2) / 5
    assert summary["arc_length"] == 5.0 and summary["length_ratio"] == 1.25 and summary["num_points"] == 5


def test_save_and_load(tmp_path):
    path = tmp_path / "path.npz"
    result().save(path)
    loaded = curves.PathResult.load(path)
    assert loaded.summary() == result().summary()
    for split in ("train", "test", "ensemble"):
        for quantity, array in getattr(result(), split).items():
            assert np.array_equal(getattr(loaded, split)[quantity], array)
    assert loaded.settings == {"num_points": 5}
    assert [file.name for file in tmp_path.iterdir()] == ["path.npz"]
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="`path` must be a file of a PathResult"):
        curves.PathResult.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        result().save(tmp_path / "missing" / "path.npz")


def test_plot(tmp_path):
    figure = result().plot(tmp_path / "path.png", line=result())
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
    loss, error, ensemble = figure.axes
    assert loss.get_ylabel() == "train loss" and error.get_ylabel() == "test error (%)"
    assert np.array_equal(loss.lines[0].get_ydata(), result().train["loss"])
    assert np.array_equal(error.lines[0].get_ydata(), 100 * result().test["error"])
    assert np.array_equal(ensemble.lines[0].get_ydata(), 100 * result().ensemble["with_start_error"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["curve", "straight line"]


def test_plot_shows_the_curve_beside_a_high_wall():
    wall, curve = result(), result()
    low = {"loss": 1 + 0.01 * curve.train["loss"], "error": 0.01 * curve.test["error"]}
    curve = dataclasses.replace(curve, train=low)
    wall = dataclasses.replace(wall, train={**wall.train, "error": wall.test["error"]})
    figure = curves.plot_paths({"straight line": wall, "Bezier curve": curve})
    loss, train_error, test_error, _ = figure.axes
    titles = [axes.get_title() for axes in figure.axes]
    assert len(set(titles)) == 4 and titles[1] == "train error of the network φ(t)"
    assert np.array_equal(train_error.lines[2].get_ydata(), 100 * low["error"])
    for axes, drawn, highest in ((loss, low["loss"], "5"), (train_error, 100 * low["error"], "60")):
        assert axes.get_ylim()[0] < min(drawn) and max(drawn) < axes.get_ylim()[1] < float(highest)
        assert [text.get_text() for text in axes.texts] == [f"cut: the line goes up to {highest}"]
    assert not test_error.texts  # There both are as high.


@slow_but_on_torch
def test_the_straight_line_is_measured_too(trained, tmp_path):
    start, end, x, y = trained
    model, straight = (compiled(curves.connect(start, end, curves.Bezier(bends), seed=0)) for bends in (3, 2))
    model.set_bend(1, batch_norm_network())
    before = values(model.variables)
    data, arguments = ((x, y), (x[:20], y[:20])), {"num_points": 3, "verbose": False}
    result = curves.evaluate_path(model, *data, **arguments, file=tmp_path / "path.npz")
    alone = curves.evaluate_path(model, *data, **arguments, line=False)
    expected = curves.evaluate_path(straight, *data, **arguments)
    assert alone.line is None and expected.line is None  # A curve of two bends is that line.
    for ours, theirs in ((result, alone), (result.line, expected)):
        for split in ("train", "test", "ensemble"):
            assert set(getattr(ours, split)) == set(getattr(theirs, split))
            for name, array in getattr(theirs, split).items():
                assert getattr(ours, split)[name] == pytest.approx(array, rel=1e-5, abs=1e-6), (split, name)
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.variables)))
    loaded = curves.PathResult.load(tmp_path / "path.npz")
    assert loaded.summary() == result.summary() and str(loaded) == str(result)
    assert loaded.summary()["line_train_loss_barrier"] == loaded.line.barrier()
    verdict, *_, first, second = str(result).splitlines()
    assert verdict.startswith("The straight line has ") and "the Bezier curve has " in verdict
    assert first.startswith("straight line: train loss ") and second.startswith("Bezier curve: train loss ")
    assert "barrier" in first and "test error %" in second
    assert repr(result) == str(result) and result._repr_html_().endswith(f"<pre>{first}\n{second}</pre>")
    assert result.settings["test_samples"] == 20 and result.settings["batch_norm_samples"] == len(x)
    figure = result.plot()
    assert [line.get_label() for line in figure.axes[0].get_lines()[::2]] == ["curve", "straight line"]


@slow_but_on_torch
def test_bad_arguments(trained):
    start, end, x, y = trained
    with pytest.raises(ValueError, match=r"must be a curves.CurveModel"):
        curves.evaluate_path(start, (x, y), (x, y))
    model = curves.connect(start, end)
    with pytest.raises(ValueError, match="must be compiled"):
        curves.evaluate_path(curves.CurveModel(model.body), (x, y), (x, y))
    with pytest.raises(ValueError, match="`num_points` must be an integer of at least 2"):
        curves.evaluate_path(compiled(model), (x, y), (x, y), num_points=1)


@slow_on_tensorflow
def test_a_point_that_is_not_finite_spoils_no_other(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, curves.PolygonalChain(5), seed=0))
    for variable in model.body.bends[1]:
        variable.assign(np.full(variable.shape, 1e30, "float32"))
    loss = curves.evaluate_path(model, (x, y), (x, y), num_points=5, verbose=False).train["loss"]
    assert list(np.isfinite(loss)) == [True, False, True, True, True]


@slow_but_on_torch
@pytest.mark.parametrize("change", ["loss", "metrics", "weight_decay"])
def test_files_measured_with_another_loss_or_penalty_are_refused(trained, tmp_path, change):
    start, end, x, y = trained
    data, path = ((x, y), (x, y)), tmp_path / "path.npz"
    line = curves.Bezier(2)
    curves.evaluate_path(compiled(curves.connect(start, end, line)), *data, num_points=2, file=path, verbose=False)
    model = compiled(curves.connect(start, end, line, weight_decay=float(change == "weight_decay")))
    if change == "loss":
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    if change == "metrics":
        model.compile(loss=logits_loss(), metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)])
    with pytest.raises(ValueError, match=r"its (loss|metrics|penalty) is .*, here it is"):
        curves.evaluate_path(model, *data, num_points=2, file=path, verbose=False)


@slow_on_tensorflow
def test_why_no_ensemble_was_measured(trained, tmp_path):
    inputs = keras.Input((4,))
    x, y = np.ones((20, 4), "float32"), np.zeros(20, int)

    def two_outputs():
        return keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])

    model = curves.connect(two_outputs(), two_outputs(), seed=0)
    model.compile("sgd", [logits_loss(), logits_loss()])
    path = tmp_path / "path.npz"
    result = curves.evaluate_path(model, (x, [y, y]), (x, [y, y], None), num_points=2, file=path, verbose=False)
    assert not result.ensemble and np.all(np.isfinite(result.test["loss"]))
    assert "No ensemble was measured: the network has several outputs.\n" in str(curves.PathResult.load(path))
    start, end, x, y = trained
    data = keras_fge.Batches(x, y)
    result = curves.evaluate_path(compiled(curves.connect(start, end)), data, data, num_points=2, verbose=False)
    assert "the test data are no arrays" in str(result)


def test_ensembles_along_a_path_of_outputs_at_each_position():
    inputs = keras.Input((5, 4))
    networks = [keras.Model(inputs, keras.layers.Dense(3)(inputs)) for _ in range(2)]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5, 4)).astype("float32"), rng.integers(0, 3, (20, 5))
    model = curves.connect(*networks, seed=0)
    model.compile("sgd", logits_loss(), metrics=["accuracy"])
    result = curves.evaluate_path(model, (x, y), (x, y), num_points=2, verbose=False)
    pair = keras_fge.Ensemble(networks[0], [n.get_weights() for n in networks], from_logits=True).evaluate(x, y)
    assert result.ensemble["with_start_nll"] == pytest.approx([result.test["nll"][0], pair["nll"]], rel=1e-4)
    assert result.ensemble["so_far_error"] == pytest.approx([result.test["error"][0], pair["error"]], abs=1e-6)


@slow_on_tensorflow
def test_sample_weights_of_the_ensemble_are_those_of_the_loss(trained):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, seed=0))
    weighted = (x, y, np.linspace(0, 5, len(x)).astype("float32"))
    result = curves.evaluate_path(model, (x, y), weighted, num_points=2, verbose=False)
    assert result.ensemble["with_start_nll"][0] == pytest.approx(result.test["nll"][0], rel=1e-4)
    assert result.ensemble["with_start_error"][0] == pytest.approx(result.test["error"][0], abs=1e-6)


@slow_but_on_torch
def test_metrics_that_are_not_one_number(trained):
    start, end, x, y = trained
    model = curves.connect(start, end, seed=0)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[keras.metrics.F1Score()])
    labels = np.eye(3, dtype="float32")[y]
    with pytest.raises(ValueError, match="The metric 'f1_score' must be one number"):
        curves.evaluate_path(model, (x, labels), (x, labels), num_points=2, verbose=False)


@pytest.mark.once
def test_soft_labels_are_measured_exactly():
    """Against the definitions, label by label; a sample with soft labels counts as its classes, weighted, would."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 50)
    y = p**2 / np.sum(p**2, axis=1, keepdims=True)  # Sharper: a temperature below 1.
    y = 0.8 * y + 0.2 * rng.dirichlet(np.ones(4), 50)
    soft = keras_fge.classification_metrics(p, y)
    assert soft["nll"] == pytest.approx(np.mean([-sum(y[n] * np.log(p[n])) for n in range(50)]))
    assert soft["brier"] == pytest.approx(np.mean([sum((p[n] - y[n]) ** 2) for n in range(50)]))
    assert soft["error"] == pytest.approx(np.mean([1 - y[n, p[n].argmax()] for n in range(50)]))
    drawn = keras_fge.classification_metrics(p.repeat(4, axis=0), np.tile(np.arange(4), 50), y.ravel())
    assert [soft[k] for k in ("error", "nll", "ece")] == pytest.approx([drawn[k] for k in ("error", "nll", "ece")])
    hard = keras_fge.classification_metrics(p, y.argmax(axis=1))
    assert keras_fge.classification_metrics(p, np.eye(4)[y.argmax(axis=1)]) == hard
    scaled = keras_fge.calibrated_metrics(p, y, folds=5)
    temperatures = []
    for fold in np.array_split(np.random.default_rng(0).permutation(50), 5):
        others = np.setdiff1d(np.arange(50), fold)

        def nll(log_t, others=others):
            logits = np.log(p[others]) / np.exp(log_t)
            return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.sum(y[others] * logits, axis=1))

        temperatures.append(np.exp(scipy.optimize.minimize_scalar(nll, bounds=(-4, 4), method="bounded").x))
    assert scaled["temperature"] == pytest.approx(np.mean(temperatures), rel=1e-3)


@pytest.mark.once
def test_many_classes_take_no_more_memory_than_their_probabilities():
    p = np.full((20, 20_000), 1 / 20_000)
    tracemalloc.start()
    keras_fge.classification_metrics(p, np.arange(20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * p.nbytes  # An array of classes x classes has 1000 times as much.
