"""`align`: the same function, and a permuted network comes back, for random architectures and each kind of layer."""

import inspect
import os

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import curves
from conftest import SLOW_BUT_ON_TORCH, values
from curves.alignment.align import change_of_outputs
from curves.alignment.matching import Matching
from curves.alignment.units import Units
from keras_fge.core.keras_internals import all_layers

pytestmark = SLOW_BUT_ON_TORCH

RNG = np.random.default_rng(0)
VALUE_SIZE = 4 if keras.backend.backend() == "jax" else 5  # Keras 3.15.1 on JAX knows no other size outside of `jit`.
EXAMPLES = int(os.environ.get("KFGE_EXAMPLES", 5))


def randomized(network, seed=0):
    """Weights that are all different, also those that begin as 0 or 1."""
    rng = np.random.default_rng(seed)
    network.set_weights(
        [
            rng.uniform(0.2, 1.0, w.shape) * rng.choice([-1, 1], w.shape)
            if "variance" not in v.path
            else rng.uniform(0.5, 2.0, w.shape)
            for v, w in zip(network.weights, network.get_weights())
        ]
    )
    return network


def permuted(network, seed=1):
    """The network with its units in random order."""
    matching = Matching(network, network)
    rng = np.random.default_rng(seed)
    for group in matching.groups:
        blocks = rng.permutation(group.blocks)
        orders = [[rng.permutation(family.shape[1]) for _ in blocks] for family in group.families]
        for family, each in zip(group.families, orders):
            for a, (b, order) in enumerate(zip(blocks, each)):
                matching.moves[family[a]] = family[b][order]
    other = keras.models.clone_model(network)
    other.set_weights(matching.moved_weights(network))
    return other, matching


def check(network, least_groups=1):
    """A permuted network computes the same, and comes back exactly."""
    randomized(network)
    other, matching = permuted(network)
    assert len(matching.groups) >= least_groups
    inputs = [
        RNG.normal(size=(4, *t.shape[1:])).astype("float32")
        if "float" in str(t.dtype)
        else RNG.integers(0, 5, (4, *t.shape[1:]))
        for t in network.inputs
    ]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    first_of = lambda outputs: keras.tree.flatten(outputs)[0]  # noqa: E731
    expected = first_of(network.predict(inputs, verbose=0))
    scale = float(np.abs(expected).max())
    assert first_of(other.predict(inputs, verbose=0)) == pytest.approx(expected, abs=2e-4 * scale)
    before = values(other.weights + network.weights)
    back = curves.align(other, network, verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(other.weights + network.weights)))
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), network.get_weights()))
    return any(not np.array_equal(a, b) for a, b in zip(other.get_weights(), network.get_weights()))


def image_input():
    return keras.Input((8, 8, 3))


def head(x):
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def plain():
    x = layers.Conv2D(6, 3, activation="relu")(i := image_input())
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D()(layers.ZeroPadding2D()(layers.Dropout(0.2)(x)))
    return i, layers.Dense(3)(layers.Dense(7, activation="tanh")(layers.Flatten()(x)))


def residual():
    x = layers.Conv2D(6, 3, padding="same")(i := image_input())
    for _ in range(2):
        y = layers.Conv2D(5, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.Add()([x, layers.Conv2D(6, 3, padding="same")(y)])
    return i, head(x)


def dense_connections():
    x = layers.Conv2D(4, 3, padding="same")(i := image_input())
    for _ in range(2):
        x = layers.Concatenate()([x, layers.Conv2D(5, 3, padding="same", activation="relu")(x)])
    x = layers.Concatenate(axis=1)([x, x])
    return i, head(x)


def separable():
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2)(i := image_input())
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    return i, head(layers.Conv2D(5, 1)(layers.LayerNormalization()(x)))


def groups():
    x = layers.Conv2D(8, 3, padding="same")(i := image_input())
    x = layers.GroupNormalization(4)(x)
    y = layers.GroupNormalization(4)(layers.Conv2D(8, 3, padding="same")(x))
    return i, head(layers.Add()([x, y]))


def groups_that_cross():
    x = layers.Conv2D(8, 3)(i := image_input())
    return i, head(layers.GroupNormalization(2)(layers.GroupNormalization(4)(x)))


def squeeze_and_excitation():
    x = layers.Conv2D(6, 3)(i := image_input())
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Dense(6, activation="sigmoid")(layers.Dense(4, activation="relu")(s))
    return i, head(layers.Multiply()([x, s]))


def operations():
    x = layers.Conv2D(6, 3)(i := image_input())
    y = keras.ops.relu(layers.Conv2D(6, 3, padding="same")(x) * 2.0 + 1.0)
    return i, head(x + y)


def transposed():
    x = layers.Conv2DTranspose(5, 3)(layers.Conv2D(6, 3)(i := image_input()))
    return i, head(layers.Conv2D(4, 1)(x))


def attention():
    h = layers.Embedding(9, 8)(i := keras.Input((6,), dtype="int32"))
    for _ in range(2):
        h = layers.LayerNormalization()(h + layers.MultiHeadAttention(3, 4, value_dim=VALUE_SIZE)(h, h))
        h = h + layers.Dense(8)(layers.Dense(10, activation="gelu")(h))
    return i, layers.Dense(3)(layers.GlobalAveragePooling1D()(h))


def grouped_attention(use_gate=False):
    h = layers.Embedding(9, 8)(i := keras.Input((6,), dtype="int32"))
    options = {"use_gate": True} if use_gate else {}
    h = layers.LayerNormalization()(h + layers.GroupQueryAttention(4, 6, 3, **options)(h, h))
    return i, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Dense(7, activation="gelu")(h)))


def vision_transformer():
    h = layers.Conv2D(8, 2, strides=2)(i := image_input())
    h = h + layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.Reshape((16, 8))(h)
    h = h + layers.MultiHeadAttention(2, 4)(n := layers.LayerNormalization()(h), n)
    h = h + layers.Dense(8)(layers.Dense(10, activation="gelu")(layers.LayerNormalization()(h)))
    return i, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h)))


def reshaped_across_channels():
    h = layers.Conv2D(8, 2, strides=2)(i := image_input())
    return i, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Dense(5)(layers.Reshape((32, 4))(h))))


def reshaped_input():
    h = layers.Reshape((3, 8, 8))(i := keras.Input((24, 8)))
    h = layers.Conv2D(6, 3, data_format="channels_first")(h)
    return i, layers.Dense(3)(layers.Flatten(data_format="channels_first")(h))


def gated_attention():
    return grouped_attention(use_gate="use_gate" in inspect.signature(layers.GroupQueryAttention).parameters)


def cross_attention():
    a, b = keras.Input((4, 6)), keras.Input((5, 7))
    x, y = layers.Dense(8)(a), layers.Dense(9)(b)
    z = layers.MultiHeadAttention(2, 4)(query=x, value=y, key=y)
    return [a, b], layers.Dense(2)(z)


def nested_and_shared():
    block = keras.Sequential([layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()])
    shared = layers.Conv2D(6, 3, padding="same")
    x = block(i := image_input())
    x = shared(shared(x))
    return i, head(keras.Sequential([layers.Conv2D(5, 3), layers.ReLU()])(x))


def pinned_by_an_unknown_layer():
    x = layers.Conv2D(6, 3)(i := image_input())
    x = layers.Permute((2, 1, 3))(x)  # No rule.
    x = layers.Conv2D(5, 3)(x)
    return i, head(x)


def constants_that_differ():
    x = layers.Conv2D(6, 3)(i := image_input())
    x = layers.Conv2D(5, 3)(keras.ops.add(x, np.arange(6, dtype="float32")))
    return i, head(x)


def channels_first():
    first = {"data_format": "channels_first"}
    x = layers.Conv2D(6, 3, **first)(i := keras.Input((3, 8, 8)))
    x = layers.BatchNormalization(axis=1)(layers.PReLU(shared_axes=[2, 3])(x))
    x = layers.AveragePooling2D(2, **first)(layers.SeparableConv2D(5, 3, padding="same", **first)(x))
    return i, layers.Dense(3)(layers.Flatten(**first)(x))


def flatten_to_the_front():
    return (i := image_input()), layers.Dense(3)(layers.Flatten(data_format="channels_first")(layers.Conv2D(6, 3)(i)))


def masks():
    h, mask = layers.Dense(8)(i := keras.Input((6, 5))), keras.Input((6, 6), dtype="float32")
    h = layers.MultiHeadAttention(2, 4)(h, h, attention_mask=mask > 0)
    return [i, mask], layers.Dense(3)(layers.Dense(7)(h))


def scores():
    h = layers.Dense(8)(i := keras.Input((6, 5)))
    h, shown = layers.MultiHeadAttention(2, 4)(h, h, return_attention_scores=True)
    return i, [layers.Dense(3)(layers.Dense(7)(h)), shown]


def shared_with_and_without_a_rule():
    attention = layers.MultiHeadAttention(2, 4)
    h = layers.Dense(8)(i := keras.Input((6, 5)))
    h = attention(h, h)
    h = attention(h, keras.ops.flip(h, axis=-1))
    return i, layers.Dense(3)(layers.Dense(6)(h))


def nested_by_names():
    q, p = keras.Input((4,), name="q"), keras.Input((4,), name="p")
    inner = keras.Model([q, p], layers.Dense(3)(layers.Dense(6)(q)) - layers.Dense(3)(p))
    a, b = keras.Input((4,)), keras.Input((4,))
    return [a, b], layers.Dense(2)(inner({"p": layers.Dense(4)(a), "q": layers.Dense(4)(b)}))


KINDS = [channels_first, flatten_to_the_front, masks, shared_with_and_without_a_rule]
KINDS += [nested_by_names, scores]
KINDS += [plain, residual, dense_connections, separable, groups, groups_that_cross, squeeze_and_excitation, operations]
KINDS += [grouped_attention, gated_attention, vision_transformer, reshaped_across_channels, reshaped_input]
KINDS += [transposed, attention, cross_attention, nested_and_shared, pinned_by_an_unknown_layer, constants_that_differ]
LEAST = {
    channels_first: 2,
    flatten_to_the_front: 1,
    groups_that_cross: 0,
    groups: 1,
    separable: 2,
    attention: 5,
    grouped_attention: 3,
    vision_transformer: 3,
    reshaped_across_channels: 1,
    gated_attention: 3,
    cross_attention: 3,
    plain: 2,
    residual: 3,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_permuted_network_comes_back(kind, request):
    if kind is channels_first:
        request.getfixturevalue("graph_optimizer")
    least = LEAST.get(kind, 1)
    assert check(keras.Model(*kind()), least) == (least > 0)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_architectures(data):
    i = x = keras.Input((8, 8, 3))
    rank = 4
    for _ in range(data.draw(st.integers(2, 7))):
        width = data.draw(st.integers(2, 8))
        kinds = [
            "conv",
            "norm",
            "layer_norm",
            "relu",
            "pool",
            "branch",
            "concatenate",
            "depthwise",
            "separable",
            "flatten",
        ]
        kind = data.draw(st.sampled_from(kinds if rank == 4 else ["dense", "norm", "relu", "residual", "concatenate"]))
        if kind == "conv":
            x = layers.Conv2D(width, 3, padding="same", use_bias=data.draw(st.booleans()))(x)
        elif kind == "norm":
            x = layers.BatchNormalization()(x)
        elif kind == "layer_norm":
            x = layers.LayerNormalization()(x)
        elif kind == "relu":
            x = layers.ReLU()(x)
        elif kind == "pool":
            x = layers.AveragePooling2D(2, padding="same")(x)
        elif kind == "branch":
            x = layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")(x)])
        elif kind == "concatenate":
            x = layers.Concatenate()([x, layers.Dense(width)(x)])
        elif kind == "depthwise":
            x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=data.draw(st.integers(1, 2)))(x)
        elif kind == "separable":
            x = layers.SeparableConv2D(width, 3, padding="same")(x)
        elif kind == "flatten":
            x, rank = layers.Flatten()(x), 2
        elif kind == "dense":
            x = layers.Dense(width, activation="tanh")(x)
        elif kind == "residual":
            x = layers.Add()([x, layers.Dense(x.shape[-1])(layers.Dense(width, activation="relu")(x))])
    x = x if rank == 2 else layers.Flatten()(x)
    check(keras.Model(i, layers.Dense(2)(layers.Dense(4, activation="relu")(x))))


def turned(network, seed=2):
    """The network with other queries and keys, and other values, in each head: orthogonal maps that change nothing."""
    from scipy.stats import ortho_group

    other, rng = keras.models.clone_model(network), np.random.default_rng(seed)
    other.set_weights(network.get_weights())
    for layer in other.layers:
        if isinstance(layer, layers.GroupQueryAttention):
            parts = {part.name: part for part in all_layers(layer, include_self=False)}
            heads, size = parts["key"].kernel.shape[1:]
            inner, outer = (ortho_group.rvs(size, heads, random_state=rng) for _ in range(2))
            for name, maps in (("query", inner), ("key", inner), ("value", outer)):
                kernel, bias = values(parts[name].weights)
                maps = np.repeat(maps, kernel.shape[1] // heads, axis=0)
                parts[name].set_weights([np.einsum("ihd,hde->ihe", kernel, maps), np.einsum("hd,hde->he", bias, maps)])
            kernel, bias = values(parts["attention_output"].weights)
            maps = np.repeat(outer, kernel.shape[0] // heads, axis=0)
            parts["attention_output"].set_weights([np.einsum("hdo,hde->heo", kernel, maps), bias])
        if isinstance(layer, layers.MultiHeadAttention):
            _, heads, size = layer.query_dense.kernel.shape
            inner = ortho_group.rvs(size, heads, random_state=rng)
            outer = ortho_group.rvs(layer.value_dense.kernel.shape[2], heads, random_state=rng)
            for dense, maps in ((layer.query_dense, inner), (layer.key_dense, inner), (layer.value_dense, outer)):
                kernel, bias = values(dense.weights)
                dense.set_weights([np.einsum("ihd,hde->ihe", kernel, maps), np.einsum("hd,hde->he", bias, maps)])
            kernel, bias = values(layer.output_dense.weights)
            layer.output_dense.set_weights([np.einsum("hdo,hde->heo", kernel, outer), bias])
    return other


@pytest.mark.parametrize("kind", [attention, grouped_attention, cross_attention, masks], ids=lambda kind: kind.__name__)
def test_turned_heads_come_back(kind, capsys):
    """Heads in another order, turned by random orthogonal maps: the distance to the network itself is 0 again."""
    network = randomized(keras.Model(*kind()))
    other, _ = permuted(turned(network))
    inputs = [RNG.integers(0, 5, (4, *t.shape[1:])).astype(str(t.dtype)) for t in network.inputs]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    expected = network.predict(inputs, verbose=0)
    assert other.predict(inputs, verbose=0) == pytest.approx(expected, abs=2e-4 * float(np.abs(expected).max()))
    back = curves.align(other, network, verbose=False)
    for a, b in zip(back.get_weights(), network.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-4)
    straight = curves.align(other, network, rotate=False, verbose=False)
    assert any(not np.allclose(a, b, atol=0.1) for a, b in zip(straight.get_weights(), network.get_weights()))


@pytest.mark.parametrize("option", [{"kernel_constraint": "non_neg"}, {"kernel_regularizer": "l1"}])
def test_heads_do_not_turn_where_training_would_not_allow_it(option):
    """Weights stay positive, and their sum of absolute values what it was."""
    i = keras.Input((5, 8))
    networks = [keras.Model(i, layers.MultiHeadAttention(2, 4, **option)(i, i)) for _ in range(2)]
    for seed, network in enumerate(networks):
        network.set_weights([np.abs(w) for w in randomized(network, seed).get_weights()])
    aligned = curves.align(*networks, verbose=False)
    assert all(np.min(w) >= 0 for w in aligned.get_weights())
    kept = curves.align(*networks, rotate=False, verbose=False).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(aligned.get_weights(), kept))


def test_the_turn_of_one_head_is_the_best():
    """Against random orthogonal maps: none brings the head nearer to that of the reference."""
    from scipy.stats import ortho_group

    heads = [layers.MultiHeadAttention(1, 4, use_bias=False) for _ in range(2)]
    inputs = keras.Input((5, 6))
    network, reference = (keras.Model(inputs, layer(inputs, inputs)) for layer in heads)
    aligned = curves.align(network, reference, verbose=False)
    query, key, value, out = (
        [w.reshape(6, 4) if w.shape[0] == 6 else w.reshape(4, 6).T for w in each]
        for each in zip(network.get_weights(), reference.get_weights(), aligned.get_weights())
    )
    for first, second in ((query, key), (value, out)):
        found = sum(np.sum((theirs - best) ** 2) for _, theirs, best in (first, second))
        for turn in ortho_group.rvs(4, 500, random_state=0):
            assert sum(np.sum((theirs - ours @ turn) ** 2) for ours, theirs, _ in (first, second)) >= found - 1e-4


def test_the_matching_is_the_best_for_one_hidden_layer():
    import itertools

    networks = [randomized(keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)]), s) for s in (1, 2)]
    (k, b, out, c), (rk, rb, rout, _) = (network.get_weights() for network in networks)
    best = min(
        itertools.permutations(range(4)),
        key=lambda p: np.sum((k[:, p] - rk) ** 2) + np.sum((b[list(p)] - rb) ** 2) + np.sum((out[list(p)] - rout) ** 2),
    )
    aligned = curves.align(*networks, verbose=False).get_weights()
    for ours, expected in zip(aligned, (k[:, best], b[list(best)], out[list(best)], c)):
        assert np.array_equal(ours, expected)


def test_it_is_the_same_for_a_seed_and_no_farther():
    networks = [keras.Model(*residual()) for _ in range(2)]
    first, again = (curves.align(*networks, seed=3, verbose=False) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights()))
    lengths = [curves.connect(n, networks[1], curves.Bezier(2)).arc_length(2) for n in (networks[0], first)]
    assert lengths[1] < lengths[0]


def test_report(capsys):
    keras.utils.set_random_seed(0)
    networks = [keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)]) for _ in range(2)]
    curves.align(*networks)
    assert capsys.readouterr().out.startswith("align: 92.3 % of the weights belong to 1 groups of units that can move.")
    i = keras.Input((5, 3))
    recurrent = keras.Model(i, layers.Dense(2)(layers.LSTM(4)(layers.Dense(6)(i))))
    curves.align(recurrent, recurrent)
    assert "without a rule: lstm" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [plain, residual, attention], ids=lambda kind: kind.__name__)
def test_activations_bring_it_back_too(kind):
    network = randomized(keras.Model(*kind()))
    other, _ = permuted(network)
    x = RNG.normal(size=(40, 8, 8, 3)).astype("float32") if kind is not attention else RNG.integers(0, 9, (60, 6))
    back = curves.align(other, network, data=x, method="activations", verbose=False)
    assert back.predict(x, verbose=0) == pytest.approx(network.predict(x, verbose=0), rel=1e-3, abs=1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), network.get_weights()))


def test_activations_match_units_whose_weights_do_not():
    """The same function of the inputs in other units: weights scaled in and out, which correlations do not see."""
    network = randomized(keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(2)]))
    scales, order = np.array([0.01, 100, 1, 10, 0.1], "float32"), np.array([3, 0, 4, 1, 2])
    k, b, out, c = network.get_weights()
    other = keras.models.clone_model(network)
    other.set_weights([(k * scales)[:, order], (b * scales)[order], (out / scales[:, None])[order], c])
    back = curves.align(other, network, data=RNG.normal(size=(200, 6)), method="activations", verbose=False)
    assert back.get_weights()[0] == pytest.approx(k * scales)


def test_bad_input():
    i = image_input()
    network, other = keras.Model(*plain()), keras.Model(i, head(layers.Conv2D(6, 3)(i)))
    with pytest.raises(ValueError, match="`network` and `reference` must have the same architecture"):
        curves.align(network, other)
    with pytest.raises(ValueError, match="`method` must be"):
        curves.align(network, network, method="magic")
    with pytest.raises(ValueError, match="`reference` must be a keras"):
        curves.align(network, "network")
    with pytest.raises(ValueError, match="`data` is needed"):
        curves.align(network, network, method="activations")
    with pytest.raises(ValueError, match="`data` must hold inputs of shapes"):
        curves.align(network, network, data=np.zeros((4, 7)), method="activations")
    with pytest.raises(ValueError, match="`data` must show each layer at least as often"):
        curves.align(network, network, data=np.zeros((3, 8, 8, 3)), method="activations")
    with pytest.raises(ValueError, match="must be a built network"):
        unbuilt = keras.Sequential([layers.Dense(3)])
        curves.align(unbuilt, unbuilt)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match="a class of its own"):
        curves.align(own, own)


@keras.saving.register_keras_serializable("tests")
def running_sum(x):
    return keras.ops.cumsum(x, axis=-1)


def test_a_layer_that_is_not_what_its_rule_takes_it_for_is_an_error():
    i = keras.Input((6,))
    x = layers.Activation(running_sum)(layers.Dense(5)(i))
    network = keras.Model(i, layers.Dense(2)(x))
    with pytest.raises(RuntimeError, match="would compute something else"):
        curves.align(permuted_by_hand(network), network)


def test_an_output_that_is_not_finite_is_another_one():
    """Also if it is not the first of several."""
    i = keras.Input((3,))
    network = keras.Model(i, [layers.Dense(2)(i), layers.Dense(2)(i)])
    other = keras.models.clone_model(network)
    other.set_weights([*network.get_weights()[:2], np.full((3, 2), np.nan), np.zeros(2)])
    assert np.isnan(change_of_outputs(network, other, None, 0))
    other.set_weights(network.get_weights())
    assert change_of_outputs(network, other, None, 0) == 0


def permuted_by_hand(network):
    other = keras.models.clone_model(network)
    other.set_weights([w[..., ::-1] if w.shape[-1] == 5 else w for w in network.get_weights()])
    return other


def test_frozen_weights_stay_and_the_networks_can_be_connected():
    def head_on_frozen():
        frozen = keras.Sequential([layers.Dense(6, activation="relu"), layers.BatchNormalization()])
        network = keras.Sequential([keras.Input((4,)), frozen, layers.Dense(5, activation="relu"), layers.Dense(2)])
        frozen.trainable = False
        return network

    start, end = randomized(head_on_frozen(), 1), randomized(head_on_frozen(), 2)
    frozen = len(start.layers[0].weights)
    end.set_weights(start.get_weights()[:frozen] + end.get_weights()[frozen:])
    aligned = curves.align(end, start, verbose=False)
    assert any(not np.array_equal(a, b) for a, b in zip(aligned.get_weights(), end.get_weights()))
    curves.connect(start, aligned)


def test_networks_in_half_precision_and_inputs_that_are_no_floats():
    x = i = keras.Input((8, 8, 3))
    for _ in range(3):
        x = layers.Conv2D(6, 3, padding="same", activation="relu", dtype="mixed_bfloat16")(x)
    network = keras.Model(i, layers.Dense(2, dtype="float32")(layers.GlobalAveragePooling2D()(x)))
    images = RNG.integers(0, 255, (20, 8, 8, 3), "uint8")
    other, _ = permuted(network)
    curves.align(other, network, data=images, method="activations", verbose=False)


def test_networks_that_take_no_random_inputs_need_data():
    class OnlySmall(layers.Layer):
        def call(self, x):
            return keras.ops.log(x)

    i = keras.Input((4,))
    network = keras.Model(i, layers.Dense(2)(layers.Dense(3)(OnlySmall()(i))))
    with pytest.raises(ValueError, match="not finite: give `data`"):
        curves.align(network, network, verbose=False)


def test_a_nested_network_with_its_own_call_is_not_read():
    i = keras.Input((5,))
    inner = Flipped([layers.Dense(5), layers.Dense(5)])
    network = keras.Model(i, layers.Dense(2)(inner(layers.Dense(5)(i))))
    other = randomized(keras.models.clone_model(network), 1)
    curves.align(randomized(network), other, verbose=False)  # Read, it would compute something else.
    with pytest.raises(ValueError, match="a class of its own"):
        curves.align(inner, inner)


@keras.saving.register_keras_serializable("tests")
class Flipped(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return keras.ops.flip(super().call(x), axis=-1)


def test_units_that_are_tied_across_parts_are_grouped_apart():
    units = Units()
    a, b = units.new(3), units.new(2)
    whole = units.new(5)
    units.tie(np.concatenate([a, b]), whole)
    groups = units.groups([units.roots(axis) for axis in (a, b, whole)])
    assert sorted(family.tolist() for group in groups for family in group.families) == [[[0, 1, 2]], [[3, 4]]]
