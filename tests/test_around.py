"""Planes around one network, and the derivatives that they need, against closed forms and numpy."""

import keras
import numpy as np
import pytest

import curves
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch, slow_on_jax, slow_on_tensorflow, values
from curves.measuring import Meter
from curves.measuring.directions import filter_directions, hessian_directions, largest_eigenpairs
from keras_fge.core.derivatives import LossDerivatives

L2 = 0.01


def softmax_regression():
    """A network with a known Hessian, its data, and both in float64."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)).astype("float32"), rng.integers(0, 4, 50)
    dense = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(L2), bias_initializer="normal")
    network = keras.Sequential([keras.Input((3,)), dense])
    network.compile("sgd", logits_loss())
    kernel, bias = (value.astype("float64") for value in network.get_weights())
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    inputs = np.concatenate([x, np.ones((50, 1))], axis=1).astype("float64")  # The bias is a row more of the kernel.
    decay = np.array([2 * L2] * 3 + [0.0])[:, None]
    gradient = inputs.T @ (p - np.eye(4)[y]) / 50 + decay * np.concatenate([kernel, bias[None]])
    blocks = np.einsum(
        "ni,nj,nab->iajb", inputs, inputs, np.einsum("na,ab->nab", p, np.eye(4)) - p[:, :, None] * p[:, None]
    )
    hessian = blocks.reshape(16, 16) / 50 + np.diag(np.repeat(decay[:, 0], 4))
    return network, (x, y), gradient, hessian


def test_gradient_and_hessian_against_the_closed_form():
    network, data, gradient, hessian = softmax_regression()
    derivatives = LossDerivatives(network, data, batch_size=16)  # 50 samples: the last batch is short.
    kernel, bias = derivatives.gradient()
    np.testing.assert_allclose(np.concatenate([kernel, bias[None]]), gradient, atol=1e-6)
    vector = np.random.default_rng(1).normal(size=(4, 4))
    kernel, bias = derivatives.hessian_times([vector[:3], vector[3]])
    expected = (hessian @ vector.ravel()).reshape(4, 4)
    np.testing.assert_allclose(np.concatenate([kernel, bias[None]]), expected, atol=1e-5)
    before = network.get_weights()
    directions, found = hessian_directions(derivatives, seed=0)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian)[::-1][:2], rtol=1e-3)
    for value, (kernel, bias) in zip(found, directions):
        whole = np.concatenate([kernel, bias[None]]).ravel()
        longest = np.sqrt(sum(np.sum(w.astype("float64") ** 2) for w in before))
        assert np.linalg.norm(whole) == pytest.approx(min(np.sqrt(2 / value), longest))
        np.testing.assert_allclose(hessian @ whole, value * whole, atol=0.02)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights()))


def test_weights_of_samples_and_data_sets_count_as_in_evaluate():
    network, (x, y), *_ = softmax_regression()
    weight = np.linspace(0, 2, 50).astype("float32")
    gradient = LossDerivatives(network, (x, y, weight), 50).gradient()[0]
    step = 1e-2
    kernel, bias = network.get_weights()
    losses = []
    for sign in (1, -1):
        network.set_weights([kernel + sign * step * np.eye(3, 4, dtype="float32"), bias])
        losses.append(network.evaluate(x, y, sample_weight=weight, batch_size=50, verbose=0))
    network.set_weights([kernel, bias])
    assert np.sum(gradient * np.eye(3, 4)) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=2e-3)

    class Halves(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[index::2], y[index::2]

    whole = LossDerivatives(network, (x, y), 50).gradient()[0]
    np.testing.assert_allclose(LossDerivatives(network, Halves(), 1).gradient()[0], whole, atol=1e-6)


def test_a_network_with_all_kinds_of_layers():
    """Second differences of a smooth loss along a direction; dropout is off, and statistics are left alone."""
    keras.utils.set_random_seed(0)
    x, y = images()
    layers = [keras.layers.Conv2D(4, 3, activation="tanh"), keras.layers.BatchNormalization()]
    layers += [keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dropout(0.5)]
    layers += [keras.layers.Dense(3, "softmax", activity_regularizer=keras.regularizers.L2(0.1))]
    network = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    network.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = values(network.variables)
    derivatives = LossDerivatives(network, (x, y), 1000)
    (direction, _) = filter_directions(network, 0)
    product = derivatives.hessian_times(direction)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables)))
    curvature = sum(np.sum(a * b) for a, b in zip(direction, product))
    weights = [value.astype("float64") for value in values(network.trainable_variables)]
    losses, step = [], 0.1
    for shift in (-2, -1, 0, 1, 2):
        for variable, w, d in zip(network.trainable_variables, weights, direction):
            variable.assign(w + shift * step * d)
        losses.append(network.evaluate(x, y, batch_size=1000, verbose=0)[0])
    numerical = np.dot([-1, 16, -30, 16, -1], losses) / (12 * step**2)  # Of fourth order.
    assert curvature == pytest.approx(numerical, rel=0.05)


def test_sharpness_against_the_closed_form():
    network, data, _, hessian = softmax_regression()
    found = curves.sharpness(network, data, batch_size=16, probes=400)
    assert found["largest_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=2e-3)
    assert abs(found["trace"] - np.trace(hessian)) < 4 * found["trace_se"] < 0.2 * np.trace(hessian)
    frozen = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, trainable=False), keras.layers.Dense(4)])
    frozen.compile("sgd", logits_loss())
    assert 0 < curves.sharpness(frozen, data, train_samples=20)["largest_eigenvalue"] < 10


@slow_on_jax
def test_several_outputs_attention_and_equal_eigenvalues():
    """A network that was never fitted, with two losses, attention, a short last batch; eigenvalues that come twice."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = keras.Input((5, 8))
    h = keras.layers.GlobalAveragePooling1D()(keras.layers.MultiHeadAttention(2, 4)(inputs, inputs))
    network = keras.Model(inputs, [keras.layers.Dense(3, "softmax")(h), keras.layers.Dense(1)(h)])
    network.compile("sgd", ["sparse_categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5])
    x = rng.normal(size=(20, 5, 8)).astype("float32")
    y = (rng.integers(0, 3, 20), rng.normal(size=(20, 1)).astype("float32"))
    whole, parts = (curves.sharpness(network, (x, y), batch_size=size) for size in (20, 8))
    assert whole["trace"] == pytest.approx(parts["trace"], rel=1e-3) and whole["largest_eigenvalue"] > 0
    network.evaluate(x, y, verbose=0)

    four = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    four.compile("sgd", "mse")
    x = rng.normal(size=(30, 3)).astype("float32")
    inner = np.concatenate([x, np.ones((30, 1))], axis=1)
    expected = np.linalg.eigvalsh(2 * inner.T @ inner / 30 / 4)[-1]
    _, found = hessian_directions(LossDerivatives(four, (x, np.zeros((30, 4), "float32")), 30), seed=0)
    assert found == pytest.approx([expected, expected], rel=2e-3)  # Each eigenvalue comes four times.


@slow_but_on_torch
def test_sharpness_along_a_path():
    """At each position that of the network there; the curve's weight decay adds to each eigenvalue."""
    x, y = images()
    networks = [batch_norm_network() for _ in range(2)]
    given = {"num_points": 3, "batch_size": 25, "verbose": False, "sharpness": True, "line": False}
    for decay in (0.0, 0.3):
        curve = curves.connect(*networks, weight_decay=decay)
        curve.compile("sgd", logits_loss(), metrics=["accuracy"])
        result = curves.evaluate_path(curve, (x, y), (x[:20], y[:20]), **given)
        curve.t = 0.5
        curves.update_batch_norm(curve, (x, y), batch_size=25)
        middle = curve.network_at(0.5)
        expected = curves.sharpness(middle, (x, y), batch_size=25)
        size = sum(int(np.prod(variable.shape)) for variable in middle.trainable_variables)
        assert result.train["largest_eigenvalue"][1] == pytest.approx(expected["largest_eigenvalue"] + decay, rel=1e-3)
        assert result.train["trace"][1] == pytest.approx(expected["trace"] + decay * size, rel=1e-3)
    assert "largest_eigenvalue" in " ".join(result.summary())
    with pytest.raises(ValueError, match=r"`network` must be a keras\.Model"):
        curves.sharpness(curve, (x, y))


@pytest.mark.once
@pytest.mark.parametrize("kind", ["positive", "indefinite", "of rank one", "zero"])
@pytest.mark.parametrize("size", [1, 2, 40, 300])
def test_largest_eigenpairs(kind, size):
    rng = np.random.default_rng(size)
    matrix = rng.normal(size=(size, size))
    matrix = matrix + matrix.T
    if kind == "positive":
        matrix = matrix @ matrix
    if kind == "of rank one":
        matrix = np.outer(matrix[0], matrix[0])
    if kind == "zero":
        matrix = 0 * matrix
    found, vectors = largest_eigenpairs(lambda vector: matrix @ vector, size, min(2, size), seed=0)
    expected = np.linalg.eigvalsh(matrix)[::-1][: min(2, size)]
    scale = np.abs(expected).max() or 1.0
    assert found == pytest.approx(expected, abs=1e-3 * scale)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-8)
    np.testing.assert_allclose(vectors @ matrix, found[:, None] * vectors, atol=0.02 * scale)


def test_each_filter_is_as_long_as_that_of_the_network():
    inputs = keras.Input((6, 6, 2))
    h = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(inputs)
    h = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 3)(h))
    indices = keras.Input((4,), dtype="int32")
    words = keras.layers.Flatten()(keras.layers.Embedding(7, 3)(indices))
    h = keras.layers.Conv2DTranspose(4, 2)(h)
    s = keras.layers.Reshape((9, 4))(h)
    s = keras.layers.Flatten()(keras.layers.MultiHeadAttention(2, 3)(s, s))
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()([s, words]))
    network = keras.Model([inputs, indices], outputs)
    inside = {"depthwise_conv2d": (0, 1), "conv2d": (0, 1, 2), "embedding": (1,), "dense": (0,)}
    inside |= {"conv2d_transpose": (0, 1, 3), "query": (0,), "key": (0,), "value": (0,), "attention_output": (0, 1)}
    for direction in filter_directions(network, seed=1):
        for variable, part in zip(network.trainable_variables, direction):
            name = variable.path.split("/")[-2].rstrip("_0123456789")
            weights = values([variable])[0]
            if weights.ndim == 1 or variable.name == "bias":
                assert not part.any()
            else:
                lengths = (
                    np.linalg.norm(
                        np.moveaxis(w, inside[name], range(len(inside[name]))).reshape(
                            int(np.prod([w.shape[axis] for axis in inside[name]])), -1
                        ),
                        axis=0,
                    )
                    for w in (part, weights)
                )
                np.testing.assert_allclose(*lengths, rtol=1e-4)
    first, second = filter_directions(network, seed=1)
    assert not np.allclose(first[0], second[0]) and np.array_equal(first[0], filter_directions(network, seed=1)[0][0])


@slow_on_tensorflow
def test_points_of_the_plane_are_the_network_moved_there(tmp_path):
    x, y = images()
    network = batch_norm_network()
    network.compile("sgd", logits_loss(), metrics=["accuracy"])
    before = values(network.variables)
    given = {"directions": "filter", "extent": 0.5, "num_points": (5, 3), "seed": 3, "batch_size": 25, "verbose": False}
    result = curves.evaluate_plane(network, (x, y), (x[:20], y[:20]), file=tmp_path / "plane.npz", **given)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables)))
    first, second = filter_directions(network, seed=3)
    size = sum(np.sum(a * a) for a in first)
    second = [b - sum(np.sum(p * q) for p, q in zip(first, second)) / size * a for a, b in zip(first, second)]
    assert result.x[[0, -1]] == pytest.approx([-0.5 * np.sqrt(size), 0.5 * np.sqrt(size)])
    assert result.y[-1] == pytest.approx(0.5 * np.sqrt(sum(np.sum(b * b) for b in second)))
    trainable = values(network.trainable_variables)
    for (j, i), (a, b) in {(1, 2): (0, 0), (2, 3): (0.25, 0.5)}.items():
        moved = batch_norm_network()
        moved.compile("sgd", logits_loss(), metrics=["accuracy"])
        for variable, w, d, e in zip(moved.trainable_variables, trainable, first, second):
            variable.assign(w + a * d + b * e)
        curves.update_batch_norm(moved, (x, y), batch_size=25)
        expected = moved.evaluate(x, y, verbose=0, return_dict=True)
        assert result.train["loss"][j, i] == pytest.approx(expected["loss"], rel=1e-4)
        assert result.train["error"][j, i] == pytest.approx(1 - expected["accuracy"], abs=1e-6)
    with pytest.raises(ValueError, match="holds another measurement: its seed is 3, here it is 4"):
        curves.evaluate_plane(network, (x, y), (x[:20], y[:20]), file=tmp_path / "plane.npz", **{**given, "seed": 4})
    again = curves.evaluate_plane(network, (x, y), (x[:20], y[:20]), file=tmp_path / "plane.npz", **given)
    assert np.array_equal(again.train["loss"], result.train["loss"])


@slow_on_tensorflow
def test_at_a_minimum_the_loss_rises_by_one_at_the_tips(tmp_path):
    """Least squares: the loss is a parabola, whose Hessian is 2 X^T X / N."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype("float32") * [3, 2, 1]
    y = (x @ rng.normal(size=(3, 1)) * 5 + rng.normal(size=(60, 1))).astype("float32")
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    network.compile("sgd", "mse")
    network.set_weights([np.linalg.lstsq(x, y, rcond=None)[0]])
    given = {"directions": "hessian", "num_points": 3, "verbose": False}
    result = curves.evaluate_plane(network, (x, y), (x, y), **given)
    losses = result.train["loss"]
    assert losses[1, [0, 2]] == pytest.approx(losses[1, 1] + 1, rel=1e-3)
    assert losses[[0, 2], 1] == pytest.approx(losses[1, 1] + 1, rel=1e-3)
    expected = np.linalg.eigvalsh(2 * x.T.astype("float64") @ x / 60)[::-1][:2]
    assert result.settings["curvatures"] == pytest.approx(expected, rel=1e-3)
    said = str(result)
    assert f"are {expected[0]:.3g} and {expected[1]:.3g}" in said and f"above {2 / expected[0]:.2g} would not" in said
    assert "lower elsewhere" not in said
    axes = result.plot().axes[0]
    assert axes.get_xlabel() == "distance along the largest curvature"
    assert [line.get_label() for line in axes.get_lines()] == ["network"]
    result.to_html(tmp_path / "plane.html")
    network.set_weights([network.get_weights()[0] + 0.2])
    assert "lower elsewhere" in str(curves.evaluate_plane(network, (x, y), (x, y), **given))


@slow_on_tensorflow
def test_a_file_goes_on_and_a_finished_one_computes_nothing(tmp_path, monkeypatch):
    x, y = images()
    network = batch_norm_network()
    network.compile("sgd", logits_loss(), metrics=["accuracy"])
    file, given = tmp_path / "plane.npz", {"directions": "hessian", "num_points": 3, "batch_size": 25, "verbose": False}
    whole = curves.evaluate_plane(network, (x, y), (x, y), **given)
    begun, calls = Meter.measure, []

    def interrupted(self, *splits):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return begun(self, *splits)

    monkeypatch.setattr(Meter, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curves.evaluate_plane(network, (x, y), (x, y), file=file, **given)
    result = curves.evaluate_plane(network, (x, y), (x, y), file=file, **given)
    assert len(calls) == 5 + 1 + 5  # One point again, to see that the directions are the same.
    np.testing.assert_allclose(result.train["loss"], whole.train["loss"], rtol=1e-4)
    monkeypatch.setattr(LossDerivatives, "hessian_times", None)
    again = curves.evaluate_plane(network, (x, y), (x, y), file=file, **given)
    assert again.settings["curvatures"] == result.settings["curvatures"]
    with pytest.raises(ValueError, match="`num_points` must be an integer of at least 2"):
        curves.evaluate_plane(network, (x, y), (x, y), **{**given, "num_points": 1})


@slow_on_tensorflow
def test_bad_arguments():
    x, y = images()
    network = batch_norm_network()
    data = ((x, y), (x, y))
    with pytest.raises(ValueError, match="must be compiled"):
        curves.evaluate_plane(network, *data, directions="hessian")
    network.compile("sgd", logits_loss())
    with pytest.raises(ValueError, match='`directions` must be "filter" or "hessian"'):
        curves.evaluate_plane(network, *data, directions="pca")
    with pytest.raises(ValueError, match=r"`directions` go from one keras.Model"):
        curves.evaluate_plane([network] * 3, *data, directions="filter")
    with pytest.raises(ValueError, match="`extent` must be at least"):
        curves.evaluate_plane(network, *data, directions="filter", extent=0)
    with pytest.raises(ValueError, match="`networks` must be a CurveModel or three networks"):
        curves.evaluate_plane(network, *data)
    flat = keras.Sequential([keras.Input((2,)), keras.layers.LayerNormalization()])
    flat.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no kernel to train"):
        curves.evaluate_plane(flat, (np.ones((4, 2)),) * 2, (np.ones((4, 2)),) * 2, directions="filter")
