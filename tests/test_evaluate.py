"""Paths against measurements of the plain networks on them."""

import keras
import numpy as np
import pytest

import curves
from conftest import logits_loss, to_numpy, values


def compiled(model):
    model.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"])
    return model


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


def result():
    t = np.linspace(0, 1, 5)
    train = {"loss": np.array([1.0, 3.0, 5.0, 2.0, 2.0]), "nll": np.array([0.5, 2.5, 4.5, 1.5, 1.5])}
    test = {"loss": 2 * train["loss"], "error": np.array([0.1, 0.3, 0.6, 0.2, 0.2])}
    return curves.PathResult(t, np.array([0.0, 1.0, 2.0, 3.0, 5.0]), 4.0, train, test)


def test_barrier_lengths_and_summary():
    assert result().barrier() == 3.0  # 5 - max(1, 2)
    assert result().barrier("test", "error") == pytest.approx(0.4)
    summary = result().summary()
    assert summary["train_loss_min"] == 1.0 and summary["train_loss_max"] == 5.0
    assert summary["train_loss_barrier"] == 3.0
    assert summary["arc_length"] == 5.0 and summary["length_ratio"] == 1.25 and summary["num_points"] == 5


def test_save_and_load(tmp_path):
    path = tmp_path / "path.npz"
    result().save(path)
    loaded = curves.PathResult.load(path)
    assert loaded.summary() == result().summary()
    for split in ("train", "test"):
        for quantity, array in getattr(result(), split).items():
            assert np.array_equal(getattr(loaded, split)[quantity], array)
    assert [file.name for file in tmp_path.iterdir()] == ["path.npz"]
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match=r"lacks \['distance', 'straight_distance', 't'\]"):
        curves.PathResult.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        result().save(tmp_path / "missing" / "path.npz")


def test_plot(tmp_path):
    figure = result().plot(tmp_path / "path.png", line=result())
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
    loss, error = figure.axes
    assert loss.get_ylabel() == "train loss" and error.get_ylabel() == "test error (%)"
    assert np.array_equal(loss.lines[0].get_ydata(), result().train["loss"])
    assert np.array_equal(error.lines[0].get_ydata(), 100 * result().test["error"])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["curve", "straight line"]


def test_bad_arguments(trained):
    start, end, x, y = trained
    with pytest.raises(ValueError, match=r"must be a curves.CurveModel"):
        curves.evaluate_path(start, (x, y), (x, y))
    model = curves.connect(start, end)
    with pytest.raises(ValueError, match="must be compiled"):
        curves.evaluate_path(model, (x, y), (x, y))
    with pytest.raises(ValueError, match="`num_points` must be at least 2"):
        curves.evaluate_path(compiled(model), (x, y), (x, y), num_points=1)
