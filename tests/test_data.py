"""What people hand over: rows of any container are taken by position, or the argument is refused by name."""

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from keras import ops

import curves
import keras_fge
from conftest import slow_but_on_torch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = RNG.integers(0, 3, 40)
WEIGHTS = RNG.uniform(0.5, 1.5, 40)
INDEX = RNG.permutation(40)


def hdf5(folder, name, array):
    file = h5py.File(folder / f"{name}.h5", "w")
    return file.create_dataset(name, data=array)


def memory_map(folder, name, array):
    np.save(folder / name, array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


CONTAINERS = {
    "numpy": lambda folder, name, array: array,
    "not contiguous": lambda folder, name, array: np.repeat(array, 2, axis=0)[::2],
    "pandas": lambda folder, name, array: (pd.Series if array.ndim == 1 else pd.DataFrame)(array, index=INDEX),
    "texts as index": lambda folder, name, array: (pd.Series if array.ndim == 1 else pd.DataFrame)(
        array, index=[f"row {i}" for i in INDEX]
    ),
    "tensors": lambda folder, name, array: ops.convert_to_tensor(array),
    "memory maps": memory_map,
    "HDF5": hdf5,
}


@pytest.fixture(params=CONTAINERS)
def given(request, tmp_path):
    """(x, y, sample weights) in one kind of container."""
    return [CONTAINERS[request.param](tmp_path, name, array) for name, array in zip("xyw", (X, Y, WEIGHTS))]


def network(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_batches_are_those_of_numpy_arrays(given):
    x, y, weights = given
    ours = keras_fge.Batches(x, y, 7, sample_weight=weights)
    order = np.random.default_rng((0, 0)).permutation(40)
    for index in range(len(ours)):
        rows = order[7 * index : 7 * index + 7]
        for batch, array in zip(ours[index], (X, Y, WEIGHTS), strict=True):
            assert np.asarray(batch) == pytest.approx(array[rows])
    assert keras_fge.Batches({"a": x, "b": (x, y)}, y, 7)[1][0]["b"][1] == pytest.approx(Y[order[7:14]])


@slow_but_on_torch
def test_some_samples_are_those_of_numpy_arrays(given):
    x, y, _ = given
    line = curves.connect(network(0), network(1), curves.PolygonalChain(2))
    line.compile("sgd", "sparse_categorical_crossentropy")
    arguments = {"num_points": 2, "train_samples": 15, "verbose": False}
    result = curves.evaluate_path(line, (x, y), (X, Y), **arguments)
    expected = curves.evaluate_path(line, (X, Y), (X, Y), **arguments)
    assert result.train["loss"] == pytest.approx(expected.train["loss"])


@pytest.mark.once
def test_what_has_no_rows_to_take_is_named():
    sparse = scipy.sparse.csr_matrix(X)
    with pytest.raises(ValueError, match=r"`x` is a sparse matrix, whose rows are not taken: give x.toarray\(\)"):
        keras_fge.Batches(sparse, Y)
    with pytest.raises(ValueError, match="`sample_weight` is a sparse matrix"):
        keras_fge.Batches(X, Y, sample_weight=sparse)
    ensemble = keras_fge.Ensemble.of([network(0), network(1)])
    for choose in (ensemble.select, ensemble.soup):
        with pytest.raises(ValueError, match=r"`y` must hold a label for each of 40 samples. Received: \[20\] labels"):
            choose(X, Y[:20])


def test_no_samples():
    ensemble = keras_fge.Ensemble.of([network(0), network(1)])
    assert ensemble.predict(X[:0]).shape == (0, 3)
    assert ensemble.predict(X[:0], members=True).shape == (2, 0, 3)
    assert ensemble.predict_variance(X[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="no samples"):
        ensemble.evaluate(X[:0], Y[:0])


@pytest.fixture(params=["bfloat16", "float16"])
def half(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def test_weights_of_half_precision_are_averaged_and_saved(half, tmp_path):
    networks = [network(0), network(1)]
    kernels = [np.asarray(each.get_weights()[0], "float32") for each in networks]
    given = keras_fge.Ensemble(networks[0], [each.get_weights() for each in networks])
    given.save(tmp_path / "saved")
    for ensemble in (given, keras_fge.Ensemble.of(networks), keras_fge.Ensemble.load(tmp_path / "saved")):
        mean = np.asarray(ensemble.average_weights().get_weights()[0], "float32")
        assert mean == pytest.approx((kernels[0] + kernels[1]) / 2, rel=1e-2, abs=1e-2)
        members = [np.asarray(member.get_weights()[0], "float32") for member in ensemble]
        assert all(np.array_equal(a, b) for a, b in zip(members, kernels))


def test_probabilities_of_half_precision_are_probabilities(half):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(10, "softmax")])
    ensemble = keras_fge.Ensemble.of([model])
    assert np.sum(ensemble.predict(X), axis=1) == pytest.approx(1, abs=1e-6)
    logits = X.astype("float64") @ np.asarray(model.get_weights()[0], "float64")
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert ensemble.evaluate(X, Y)["nll"] == pytest.approx(-np.mean(log_p[np.arange(40), Y]), abs=0.02)


@slow_but_on_torch
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX computes in float64 only if it is told to")
@pytest.mark.parametrize("from_logits", [True, False, None])
def test_outputs_in_float64_are_averaged_in_float64(from_logits):
    activation = "softmax" if from_logits is False else None
    weights = [[RNG.normal(size=(3, 3)), RNG.normal(size=3)] for _ in range(3)]
    x = X.astype("float64")
    inputs = keras.Input((3,), dtype="float64")
    network = keras.Model(inputs, keras.layers.Dense(3, activation, dtype="float64")(inputs))
    outputs = []
    for member in weights:
        network.set_weights(member)
        outputs.append(network.predict(x, verbose=0))  # On torch, Keras rounds `x` to float32.
    outputs = np.stack(outputs)
    if from_logits:
        outputs = np.exp(outputs) / np.sum(np.exp(outputs), axis=-1, keepdims=True)
    ensemble = keras_fge.Ensemble(network, weights, from_logits=from_logits)
    for predictions in (ensemble.predict(x), ensemble.to_model().predict(x, verbose=0)):
        assert predictions.dtype == np.float64 and np.allclose(predictions, outputs.mean(axis=0), rtol=1e-12, atol=0)
    assert np.allclose(ensemble.predict_variance(x), outputs.var(axis=0), rtol=1e-10)


def test_targets_without_weight_may_be_missing():
    keras.utils.set_random_seed(0)
    networks = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]) for _ in range(2)]
    ensemble = keras_fge.Ensemble.of(networks, from_logits=None)
    targets, weights = X[:, 0].copy(), np.ones(40)
    targets[::5], weights[::5] = np.nan, 0
    metrics = ensemble.evaluate(X, targets, sample_weight=weights)
    expected = (ensemble.predict(X)[:, 0] - targets)[weights > 0]
    assert [metrics["mse"], metrics["mae"]] == pytest.approx([np.mean(expected**2), np.mean(np.abs(expected))])
