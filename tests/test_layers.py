"""One contract for every layer on a curve: it is the plain layer at w(t)."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import curves
from conftest import IS_BEFORE_3_14, batch_norm_network, slow_but_on_torch, to_numpy, values
from keras_fge.core.networks import clone

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(4, 6, 6, 2)).astype("float32")
VECTORS = rng.normal(size=(4, 5)).astype("float32")
SEQUENCES = rng.normal(size=(4, 7, 5)).astype("float32")
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0]])


def shared_layers():
    inputs = keras.Input((5,))
    dense = layers.Dense(5, activation="tanh")
    return keras.Model(inputs, dense(dense(inputs)))


def masked_sequence_model():
    return keras.Sequential([keras.Input((5,)), layers.Embedding(6, 4, mask_zero=True), layers.LSTM(3)])


CASES = {
    "dense": (lambda: layers.Dense(3, activation="relu"), VECTORS),
    "conv": (lambda: layers.Conv2D(3, 3, strides=2, padding="same"), IMAGES),
    "depthwise": (lambda: layers.SeparableConv2D(3, 3), IMAGES),
    "transposed": (lambda: layers.Conv2DTranspose(3, 3), IMAGES),
    "batch_norm": (lambda: layers.BatchNormalization(), IMAGES),
    "layer_norm": (lambda: layers.LayerNormalization(), SEQUENCES),
    "embedding": (lambda: layers.Embedding(6, 4), TOKENS),
    "lstm": (lambda: layers.LSTM(3), SEQUENCES),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(3)), SEQUENCES),
    "shared": (shared_layers, VECTORS),
    "masked": (masked_sequence_model, TOKENS),
    "network": (batch_norm_network, IMAGES),
}
OF_KERAS = {"depthwise", "transposed", "layer_norm", "embedding", "lstm", "bidirectional"}  # As others, to the library.
THIN = {
    "CurveDense": (lambda curve: curves.CurveDense(3, curve=curve, activation="relu", name="head"), VECTORS),
    "CurveConv2D": (lambda curve: curves.CurveConv2D(3, 3, curve=curve, kernel_regularizer="l2"), IMAGES),
    "CurveBatchNormalization": (lambda curve: curves.CurveBatchNormalization(curve=curve, momentum=0.7), IMAGES),
}


def on_curve(case, curve, **arguments):
    """A built curve layer with random bends, and its input."""
    if case in THIN:
        make, x = THIN[case]
        layer = make(curve)
    else:
        make, x = CASES[case]
        layer = curves.Curve(make(), curve, **arguments)
    layer(x, t=0.5)
    for bends in layer.bends:
        for bend in bends:
            bend.assign(to_numpy(bend) + 0.1 * rng.normal(size=bend.shape).astype("float32"))
    return layer, x


def combined(layer, t):
    """w(t) by numpy, in float64."""
    coefficients = to_numpy(layer.curve.coefficients(t)).astype("float64")
    return [sum(c * to_numpy(bend) for c, bend in zip(coefficients, slot)) for slot in zip(*layer.bends)]


def plain_at(layer, t):
    """The plain layer, rebuilt from its configuration, with w(t)."""
    plain = clone(layer.layer)
    x = {**CASES, **{k: (None, v[1]) for k, v in THIN.items()}}[layer.case][1]
    plain(x)
    for variable, value in zip(plain.trainable_variables, combined(layer, t)):
        variable.assign(value.astype("float32"))
    return plain


@pytest.mark.parametrize(
    ("case", "curve"),  # `test_networks.py` has the same for Bezier curves, in whole networks.
    [
        *(pytest.param(case, curves.PolygonalChain(4), marks=slow_but_on_torch) for case in CASES if case in OF_KERAS),
        *((case, curves.PolygonalChain(4)) for case in [*CASES, *THIN] if case not in OF_KERAS),
        *((case, curves.Bezier(3)) for case in THIN),
    ],
    ids=repr,
)
def test_is_the_plain_layer_at_every_t(case, curve):
    layer, x = on_curve(case, curve)
    layer.case = case
    for t in (0.0, 0.3, 1.0):
        expected = to_numpy(plain_at(layer, t)(x))
        assert to_numpy(layer(x, t=t)) == pytest.approx(expected, abs=2e-5)
        for ours, theirs in zip(layer.weights_at(t), plain_at(layer, t).get_weights()):
            if ours.dtype == "float32":
                assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("case", [*CASES, *THIN])
def test_variable_counts_and_flags(case):
    layer, _ = on_curve(case, curves.Bezier(4))
    slots = len(layer.layer.trainable_variables)
    state = len(layer.layer.non_trainable_variables)
    statistics = 2 * sum(isinstance(sub, layers.BatchNormalization) for sub in layer.layer._flatten_layers())
    assert len(layer.trainable_variables) == 2 * slots
    assert len(layer.non_trainable_variables) == 2 * slots + state + 2 * statistics
    paths = [variable.path for variable in layer.variables]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("fix_start", [True, False])
@pytest.mark.parametrize("fix_end", [True, False])
def test_endpoints_fixed_or_free_each_on_its_own(fix_start, fix_end):
    layer, _ = on_curve("dense", curves.Bezier(3), fix_start=fix_start, fix_end=fix_end)
    flags = [[bend.trainable for bend in bends] for bends in layer.bends]
    assert flags == [[not fix_start] * 2, [True] * 2, [not fix_end] * 2]


@pytest.mark.parametrize("case", ["dense", "conv", "CurveDense"])
def test_serialization(case):
    layer, x = on_curve(case, curves.PolygonalChain(3))
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    copy(x, t=0.5)
    copy.set_weights(layer.get_weights())
    assert np.array_equal(to_numpy(copy(x, t=0.3)), to_numpy(layer(x, t=0.3)))
    assert copy.name == layer.name and copy.curve == layer.curve


def test_regularizers_see_the_weights_at_t_and_count_once():
    layer = curves.Curve(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)), weight_decay=0.2)
    layer(VECTORS, t=0.5)
    layer(VECTORS, t=0.3)
    kernel, bias = combined(layer, 0.3)
    expected = 0.1 * np.sum(kernel**2) + 0.5 * 0.2 * (np.sum(kernel**2) + np.sum(bias**2))
    with keras.StatelessScope(collect_losses=True):
        layer(VECTORS, t=0.3)
        assert float(to_numpy(sum(layer.losses))) == pytest.approx(expected, rel=1e-5)
    assert float(to_numpy(layer.penalty(0.3))) == pytest.approx(expected, rel=1e-5)


def test_activity_regularizers_count_once():
    dense = layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.5))
    outputs = to_numpy(dense(VECTORS))
    layer = curves.Curve(dense)
    with keras.StatelessScope(collect_losses=True):
        layer(VECTORS, t=0.3)
        size = 1 if IS_BEFORE_3_14 else len(VECTORS)
        assert float(to_numpy(sum(layer.losses))) == pytest.approx(0.5 * np.sum(outputs**2) / size, rel=1e-5)


def test_masks_pass_through():
    embedding = curves.Curve(layers.Embedding(6, 4, mask_zero=True))
    outputs = embedding(TOKENS, t=0.2)
    assert np.array_equal(to_numpy(outputs._keras_mask), TOKENS != 0)


def test_several_inputs():
    attention = layers.MultiHeadAttention(2, 3)
    attention(SEQUENCES, SEQUENCES)
    layer = curves.Curve(attention)  # Built: every bend starts at its weights.
    expected = to_numpy(attention(SEQUENCES, SEQUENCES))
    assert to_numpy(layer(SEQUENCES, SEQUENCES, t=0.4)) == pytest.approx(expected, abs=1e-6)


def test_bends_of_an_unbuilt_layer_are_drawn_independently():
    layer = curves.CurveDense(3)
    layer(VECTORS, t=0.5)
    kernels = [to_numpy(bends[0]) for bends in layer.bends]
    assert not np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[1], kernels[2])


def test_mixed_precision_combines_in_float32_and_computes_as_the_layer():
    dense = layers.Dense(3, dtype="mixed_bfloat16")
    expected = dense(VECTORS)
    layer = curves.Curve(dense)
    outputs = layer(VECTORS, t=0.0)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert np.array_equal(to_numpy(ops.cast(outputs, "float32")), to_numpy(ops.cast(expected, "float32")))
    assert all(bend.dtype == "float32" for bends in layer.bends for bend in bends)


def test_weights_that_their_layer_assigns_itself():
    layer = curves.Curve(layers.SpectralNormalization(layers.Dense(3)))
    with pytest.raises(ValueError, match="is assigned by its own layer"):
        layer(VECTORS, t=0.5, training=True)


def quantized():
    dense = layers.Dense(3)
    dense.build((None, 5))
    dense.quantize("int8")
    return dense


class Vocabulary(layers.Dense):
    def save_assets(self, directory):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(3, bias_constraint="non_neg"), "bias' has the constraint NonNeg"),
        (quantized, r"\(Dense\) cannot lie on a curve. It is quantized to int8"),
        (
            lambda: layers.MultiHeadAttention(2, 3),
            r"\(MultiHeadAttention\) cannot be built from the shape of one input",
        ),
        (lambda: Vocabulary(3), r"\(Vocabulary\) cannot lie on a curve. It keeps state outside"),
    ],
    ids=["constraint", "quantized", "unbuilt", "vocabulary"],
)
def test_layers_that_cannot_lie_on_a_curve(make, message):
    with pytest.raises(ValueError, match=message):
        curves.Curve(make()).build((None, 5))


def test_dropout_and_statistics_change_in_training():
    network = batch_norm_network()
    layer = curves.Curve(network)
    before = values(layer.statistics)
    first, second = (to_numpy(layer(IMAGES, t=0.5, training=True)) for _ in range(2))
    assert np.max(np.abs(first - second)) > 1e-3
    mean = to_numpy(network.layers[1](IMAGES)).mean(axis=(0, 1, 2))
    expected = 0.99 * (0.99 * before[0] + 0.01 * mean) + 0.01 * mean
    assert to_numpy(layer.statistics[0]) == pytest.approx(expected, abs=1e-6)


def test_the_wrapped_layer_stays_as_it_is():
    dense = layers.Dense(3)
    dense(VECTORS)
    before = values(dense.variables)
    layer = curves.Curve(dense)
    layer.bends[0][0].assign(np.ones((5, 3)))
    layer(VECTORS, t=0.1)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(dense.variables)))
    assert dense.trainable and all(variable.trainable for variable in dense.variables)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 3}, "`layer` must be a Keras layer"),
        ({"layer": layers.Dense(2), "curve": "bezier"}, "`curve` must be"),
        ({"layer": layers.Dense(2), "weight_decay": -1.0}, "`weight_decay` must be at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        curves.Curve(**arguments)


def test_missing_and_impossible_positions():
    layer = curves.CurveDense(3)
    with pytest.raises(ValueError, match="call it with a position"):
        layer(VECTORS)
    with pytest.raises(ValueError, match="`index` must lie in"):
        on_curve("dense", curves.Bezier(3))[0].set_bend(3, layers.Dense(2))


def test_trainable_survives_a_file():
    layer = curves.CurveDense(3, trainable=False)
    layer.build((None, 2))
    assert len(layer.bends) == 3 and len(layer.bends[0]) == 2 and not layer.trainable_variables
    copy = curves.CurveDense.from_config(layer.get_config())
    copy.build((None, 2))
    assert not copy.trainable and not copy.trainable_variables and len(copy.variables) == len(layer.variables)


def test_a_curve_is_given_by_name():
    with pytest.raises(ValueError, match="`curve` is given by name: CurveDense"):
        curves.CurveDense(3, curves.Bezier(3))
