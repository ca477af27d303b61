"""The networks and transforms of the paper, and later networks."""

import keras
import numpy as np
import pytest

import curves
from conftest import slow_but_on_torch, to_numpy, values
from inputs.fused import BatchNormalization
from inputs.modern import MODERN
from inputs.networks import make_network
from inputs.transforms import CIFAR, IMAGENET, Transform, make_transform
from keras_fge.core.networks import distance
from study.presets import SMALL_NETWORKS


def images(count=6, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), "uint8")


# --- Networks ---------------------------------------------------------------------------------------------------------


@slow_but_on_torch
@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("vgg16", 10, 15_245_130),
        ("vgg16", 100, 15_291_300),
        ("vgg16-bn", 10, 15_253_578),
        ("vgg19", 10, 20_554_826),
        ("vgg19-bn", 10, 20_565_834),
        ("preresnet20", 10, 272_282),
        ("preresnet56", 10, 590_426),
        ("preresnet110", 10, 1_146_842),
        ("preresnet164", 10, 1_703_258),
        ("wrn28x10", 10, 36_489_290),
        ("wrn16x4", 10, 2_751_146),
        ("convfc", 10, 2_422_634),
    ],
)
def test_parameters_are_those_of_the_authors_networks(name, classes, parameters):
    network = make_network(name, (32, 32, 3), classes)
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == parameters
    assert network.output_shape == (None, classes)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            is_last_of_wrn = name.startswith("wrn") and layer is network.layers[-4]
            assert layer.epsilon == 1e-5 and layer.momentum == (0.1 if is_last_of_wrn else 0.9)


@slow_but_on_torch
@pytest.mark.parametrize("name", ["preresnet20", "preresnet56", "wrn16x4", "convfc", *SMALL_NETWORKS])
def test_networks_predict_and_decay_every_weight(name):
    network = make_network(name, (32, 32, 3), 10, weight_decay=0.01, transform="resnet")
    outputs = network.predict(images(2, 32), verbose=0)
    assert outputs.shape == (2, 10) and outputs.dtype == np.float32 and np.isfinite(outputs).all()
    squares = sum(np.sum(value.astype("float64") ** 2) for value in values(network.trainable_variables))
    assert float(sum(to_numpy(loss) for loss in network.losses)) == pytest.approx(0.5 * 0.01 * squares, rel=1e-5)


@slow_but_on_torch
@pytest.mark.parametrize("name", MODERN)
def test_units_of_later_networks_can_be_aligned(name):
    a, b = (make_network(name, (16, 16, 3), 10, width=8) for _ in range(2))
    aligned, x = curves.align(b, a, verbose=False), images(4, 16)
    assert aligned.predict(x, verbose=0) == pytest.approx(b.predict(x, verbose=0), abs=1e-4)
    far, near = (distance(a, a.get_weights(), network.get_weights()) for network in (b, aligned))
    assert near < 0.9 * far


@slow_but_on_torch
def test_residual_networks_stride_where_the_authors_do():
    def convolutions(name):
        return [layer for layer in make_network(name, (32, 32, 3), 10).layers if type(layer) is keras.layers.Conv2D]

    for name, has_bias in (("wrn16x4", True), ("preresnet56", False)):
        layers = convolutions(name)
        strided = [layer for layer in layers if layer.strides == (2, 2)]
        assert sorted(layer.kernel_size[0] for layer in strided) == [1, 1, 3, 3]
        assert all(layer.use_bias == has_bias for layer in layers)
        for layer in strided:
            if layer.kernel_size[0] == 3:  # In a block, this convolution keeps the number of filters.
                assert layer.kernel.shape[-2] == layer.kernel.shape[-1]


@slow_but_on_torch
def test_strided_convolutions_are_padded_on_both_sides():
    network = make_network("preresnet20", (8, 8, 3), 10)
    layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.ZeroPadding2D))
    strided = next(
        layer for layer in network.layers if getattr(layer, "strides", None) == (2, 2) and layer.kernel_size[0] > 1
    )
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
    kernel = to_numpy(strided.kernel)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [np.einsum("hwc,hwcf->f", padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel) for j in range(4)]
        for i in range(4)
    ]
    assert np.allclose(to_numpy(strided(layer(x)))[0], expected, atol=1e-4)


@slow_but_on_torch
def test_initialization_is_that_of_the_authors():
    def layers(name, kind):
        return [layer for layer in make_network(name, (32, 32, 3), 10).layers if type(layer) is kind]

    conv = layers("vgg16", keras.layers.Conv2D)[4]  # 128 to 256 filters.
    assert np.std(to_numpy(conv.kernel)) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
    assert np.max(np.abs(to_numpy(conv.kernel))) > 4 * np.sqrt(2 / (9 * 256))  # Not truncated.
    assert not to_numpy(conv.bias).any()
    dense = layers("vgg16", keras.layers.Dense)[0]
    conv = layers("wrn16x4", keras.layers.Conv2D)[-1]
    for layer, fan_in in ((dense, 512), (conv, 9 * 256)):
        assert np.std(to_numpy(layer.kernel)) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.03)
        assert np.max(np.abs(to_numpy(layer.kernel))) <= fan_in**-0.5 * 1.00001
        assert np.std(to_numpy(layer.bias)) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.3)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_fused_batch_normalization_is_that_of_keras(momentum):
    """Outputs, moving statistics and, by a step of training, gradients."""
    x = np.random.default_rng(0).normal(3, 2, (6, 5, 4, 3)).astype("float32")
    y = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    results = []
    for layer_class in (keras.layers.BatchNormalization, BatchNormalization):
        keras.utils.set_random_seed(0)
        hidden = keras.layers.Conv2D(3, 3, padding="same")
        layer = layer_class(momentum=momentum, epsilon=1e-3)
        model = keras.Sequential([keras.Input(x.shape[1:]), hidden, layer])
        layer.set_weights([np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.0, -1.0]), np.ones(3), np.full(3, 4.0)])
        before = to_numpy(model(x, training=True)), *layer.get_weights()[2:]
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=6, verbose=0)
        layer.trainable = False
        results.append([*before, *model.get_weights(), to_numpy(model(x, training=True))])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@slow_but_on_torch
def test_networks_with_fused_batch_normalization_can_be_aligned(capsys):
    networks = [make_network("small_cnn_bn", (8, 8, 1), 10, width=4) for _ in range(2)]
    curves.align(*networks, data=np.zeros((4, 8, 8, 1), "uint8"))
    assert "without a rule" not in capsys.readouterr().out


# --- Transform --------------------------------------------------------------------------------------------------------


def crops(image, padding):
    """All that random crop and flip can make of an image."""
    size = len(image)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    windows = [padded[i : i + size, j : j + size] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return windows + [window[:, ::-1] for window in windows]


@slow_but_on_torch
def test_every_weight_is_drawn_anew_and_by_the_seed():
    def kernels(name, seed):
        keras.utils.set_random_seed(seed)
        network = make_network(name, (32, 32, 3), 10)
        return [to_numpy(v) for v in network.trainable_variables if len(v.shape) > 1]

    for name in ("vgg16", "preresnet20", "convfc", "wrn10x1"):
        first, again, other = (kernels(name, seed) for seed in (0, 0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(first, again))
        assert not any(np.array_equal(a, b) for a, b in zip(first, other))
        for k, kernel in enumerate(first):
            assert not any(np.array_equal(kernel, earlier) for earlier in first[:k])


@pytest.mark.parametrize("compiled", [False, True])
def test_augmented_images_are_padded_crops_and_flips(compiled):
    x = images(40)
    layer = Transform(0.0, 1.0, padding=2, flip=True, seed=1)
    if compiled:

        class Trained(keras.Model):
            def call(self, x):
                return layer(x, training=True)

        model = Trained()
        outputs = [model.predict(x, batch_size=20, verbose=0) for _ in range(2)]
    else:
        outputs = [to_numpy(layer(x, training=True)) for _ in range(2)]
    assert outputs[0].shape == x.shape and outputs[0].dtype == np.float32
    found = []
    for image, output in zip(x, outputs[0]):
        match = [index for index, crop in enumerate(crops(image, 2)) if np.array_equal(crop, output)]
        assert len(match) == 1
        found += match
    assert len(set(found)) > 10  # Each image has its own.
    assert 8 < sum(index >= 25 for index in found) < 32  # Half of them are flipped.
    if not compiled:
        assert not np.array_equal(*outputs)  # Each time anew.


@slow_but_on_torch
def test_transform_normalizes_as_the_authors_do():
    x = images(4, 32)
    for name, statistics in (("vgg", IMAGENET), ("resnet", CIFAR)):
        layer = make_transform(name, (32, 32, 3), 255)
        assert layer.padding == 4 and layer.flip
        mean, std = (np.array(statistics[key]) / 255 for key in ("mean", "std"))
        assert np.allclose(to_numpy(layer(x)), (x / 255 - mean) / std, atol=1e-5)
    assert CIFAR["mean"][0] / 255 == pytest.approx(0.4914) and IMAGENET["std"][2] / 255 == pytest.approx(0.225)
    plain = make_transform("none", (8, 8, 1), 16)
    assert np.allclose(to_numpy(plain(np.full((1, 8, 8, 1), 8, "uint8"), training=True)), 0.5)


@slow_but_on_torch
def test_transform_under_mixed_precision_and_in_a_file(tmp_path):
    layer = Transform(**CIFAR, padding=2, flip=True, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(images()).dtype) == "bfloat16"
    network = make_network("small_cnn", (8, 8, 3), 10, transform="resnet", width=4)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert np.array_equal(network.predict(images(), verbose=0), loaded.predict(images(), verbose=0))


@slow_but_on_torch
def test_networks_with_augmentation_on_a_curve():
    ends = [make_network("small_cnn_bn", (8, 8, 3), 10, 1e-3, "resnet", width=4) for _ in range(2)]
    x, y = images(20), np.arange(20) % 10
    model = curves.connect(*ends)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x, y, batch_size=10, verbose=0)
    path = curves.evaluate_path(model, (x, y), (x, y), num_points=3, verbose=False)
    network = model.network_at(0.0)
    assert np.allclose(values(network.trainable_variables)[0], values(ends[0].trainable_variables)[0])
    assert np.isfinite(path.train["loss"]).all()
