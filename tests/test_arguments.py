"""Bad input: the error names the argument, what was expected and what was received."""

import json
import resource

import keras
import numpy as np
import pytest

import curves
import keras_fge
import processes
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch

P = np.full((4, 3), 1 / 3)


def compiled(network):
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return network


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 1.5], r"`y` must hold classes, integers. Received: 1.5"),
        ([0, 1, 2, np.nan], r"`y` must hold classes, integers. Received: nan"),
        ([0, 1, 2, 3], r"`y` must hold classes 0 to 2. Received: 0 to 3"),
        ([0, 1, 2, -1], r"`y` must hold classes 0 to 2. Received: -1 to 2"),
        (["0", "1", "2", "0"], r"`y` must hold numbers, the classes 0 to 2. Received: type <U1"),
        ([0, 1, 2], r"one label for each prediction. Received: shape \(3,\)"),
        (
            2 * np.eye(3)[[0, 1, 2, 0]],
            r"must be one-hot, or soft labels: no row is negative, and each sums to 1. Received: sums from 2",
        ),
        (np.eye(3)[[0, 1, 2, 0]] * [1, 1, np.nan], "must be one-hot"),
        (np.array([[2, -1, 0]] * 4), "must be one-hot"),
    ],
)
def test_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        keras_fge.classification_metrics(P, labels)


def test_labels_that_are_right():
    expected = keras_fge.classification_metrics(P, [0, 1, 2, 1])
    one_hot = np.eye(3)[[0, 1, 2, 1]]
    for labels in ([0.0, 1.0, 2.0, 1.0], one_hot, one_hot.astype(bool), [[0], [1], [2], [1]]):
        assert keras_fge.classification_metrics(P, labels) == expected


def test_folds_and_empty_predictions():
    with pytest.raises(ValueError, match=r"`folds` must be an integer of at least 2. Received: folds=2.5"):
        keras_fge.calibrated_metrics(P, [0, 1, 2, 0], folds=2.5)
    with pytest.raises(ValueError, match=r"`folds` must be from 2 to the number of samples, 4. Received: folds=5"):
        keras_fge.calibrated_metrics(P, [0, 1, 2, 0], folds=5)
    with pytest.raises(ValueError, match=r"There are no predictions: the data have no samples"):
        keras_fge.classification_metrics(np.zeros((0, 3)), [])


def test_logits_that_are_probabilities():
    network = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    x, y = images()
    with pytest.warns(UserWarning, match="`from_logits` is True, but the outputs of the network are probabilities"):
        keras_fge.Ensemble(network, [network.get_weights()], from_logits=True).evaluate(x, y)


def test_numbers_of_curves():
    with pytest.raises(
        ValueError, match=r"`num_bends` of a Bezier curve must be at most 132.* Received: num_bends=500"
    ):
        curves.Bezier(500)
    largest = np.array(keras.ops.convert_to_numpy(curves.Bezier(132).coefficients(0.3)))
    assert np.isfinite(largest).all() and largest.sum() == pytest.approx(1, rel=1e-4)
    assert curves.PolygonalChain(500).num_bends == 500
    for value in (np.inf, np.nan, "1"):
        with pytest.raises(
            ValueError, match=rf"`weight_decay` must be a finite number. Received: weight_decay={value!r}"
        ):
            curves.Curve(keras.layers.Dense(2), weight_decay=value)


@slow_but_on_torch
def test_data_and_numbers_of_measurements(trained, tmp_path):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end))
    data = (x, y)
    with pytest.raises(ValueError, match=r"`train` is a list: give arrays as a tuple, \(x, y\). Received: 2 elements"):
        curves.evaluate_path(model, [x, y], data)
    with pytest.raises(ValueError, match=r"`test` has no samples. Received: x of shape \(0, 6, 6, 2\)"):
        curves.evaluate_path(model, data, (x[:0], y[:0]))
    with pytest.raises(ValueError, match=r"`data` is a list"):
        curves.update_batch_norm(model, [x, y])
    with pytest.raises(ValueError, match=r"`validation_data` is a list"):
        keras_fge.FGE(0.1, 0.01, validation_data=[x, y])
    with pytest.raises(ValueError, match=r"`validation_data` has no samples"):
        keras_fge.FGE(0.1, 0.01, validation_data=(x[:0], y[:0]))
    with pytest.raises(ValueError, match=r"`num_points` must be an integer of at least 2. Received: num_points=2.5"):
        curves.evaluate_path(model, data, data, num_points=2.5)
    with pytest.raises(ValueError, match=r"`batch_size` must be a positive integer. Received: batch_size=0"):
        curves.evaluate_path(model, data, data, batch_size=0)
    with pytest.raises(ValueError, match=r"`bn_samples` must be a positive integer. Received: bn_samples=2.5"):
        curves.evaluate_path(model, data, data, bn_samples=2.5)
    model.set_bend(1, batch_norm_network())
    for margin in (np.inf, np.nan, "wide"):
        with pytest.raises(ValueError, match="`margin` must be a finite number"):
            curves.evaluate_plane(model, data, data, margin=margin)
    path, numbers = tmp_path / "plane.npz", {"num_points": np.int64(2), "margin": np.float32(0.1)}
    numbers |= {"batch_size": np.int64(25), "train_samples": np.int32(20), "bn_samples": np.uint8(20)}
    plane = curves.evaluate_plane(model, data, data, **numbers, file=path, verbose=False)  # Numbers of numpy.
    assert curves.PlaneResult.load(path).settings == json.loads(json.dumps(plane.settings))


FULL = """
import resource, sys
import keras
from conftest import batch_norm_network, images, logits_loss
import keras_fge
model = batch_norm_network()
model.compile("sgd", logits_loss())
callbacks = [keras_fge.FGE(0.1, 0.01, cycle_steps=2, directory=sys.argv[1]), keras_fge.Checkpoint(sys.argv[1])]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
try:
    model.fit(*images(), verbose=0, callbacks=[callbacks[int(sys.argv[2])]])
except OSError as error:
    print(error)
"""


@slow_but_on_torch
@pytest.mark.parametrize(("callback", "file"), [(0, "network.keras"), (1, "state.npz")])
def test_what_cannot_be_written_is_named(tmp_path, callback, file):
    """A limit on the size of files stands for a disk that is full."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == -1
    said = processes.run(FULL, str(tmp_path / "run"), str(callback)).stdout
    assert said.startswith("[Errno 27] File too large, writing") and said.endswith(f"run/{file}'\n"), said


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ValueError, match=rf"'{tmp_path}/manifest.json' is no .*regular file"):
        keras_fge.Ensemble.load(tmp_path)


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return images(4)


def test_data_without_an_end():
    network = compiled(batch_norm_network())
    ensemble = keras_fge.Ensemble(network, [network.get_weights()], from_logits=True)
    data = [Endless()]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data.append(tf.data.Dataset.from_tensor_slices(images()).batch(10).repeat())
    for endless in data:
        with pytest.raises(ValueError, match="`data` has no end: give a part of it"):
            curves.update_batch_norm(network, endless)
        with pytest.raises(ValueError, match="`data` has no end"):
            ensemble.average_weights(endless)
        with pytest.raises(ValueError, match="`validation_data` has no end"):
            keras_fge.FGE(0.1, 0.01, validation_data=endless)


@slow_but_on_torch
def test_batches_of_lists_and_with_weights():
    x, y = images()
    inputs = keras.Input((6, 6, 2))
    outputs = [keras.layers.Dense(3, name=name)(keras.layers.Flatten()(inputs)) for name in ("a", "b")]
    network = keras.Model(inputs, outputs)
    network.compile("sgd", [logits_loss(), logits_loss()])
    assert network.fit(keras_fge.Batches(x, [y, y], batch_size=10), verbose=0).epoch == [0]
    single = compiled(batch_norm_network())
    weights = np.linspace(0, 1, 50)
    batches = keras_fge.Batches(x, y, batch_size=10, sample_weight=weights)
    assert len(batches[0]) == 3 and np.array_equal(np.sort(np.concatenate([batch[2] for batch in batches])), weights)
    assert single.fit(batches, verbose=0).epoch == [0]
    with pytest.raises(ValueError, match="must hold arrays, not lists of numbers"):
        keras_fge.Batches(x, list(y))


def test_networks_are_no_weights():
    network = batch_norm_network()
    with pytest.raises(ValueError, match=r"`snapshots` must hold weights, as .*get_weights\(\) returns them"):
        keras_fge.Ensemble(network, [network, network])
