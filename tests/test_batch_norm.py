"""Re-estimated statistics against the whole data set at once, and against a cumulative average by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import curves
from conftest import IS_BEFORE_3_14, batch_norm_network, images, slow_on_jax, slow_on_tensorflow, to_numpy, values
from keras_fge.core.batch_norm import batch_norm_layers


def first_layers(network, x):
    """Output of the first convolution, in float64."""
    kernel, bias = (to_numpy(v).astype("float64") for v in network.layers[1].variables)
    patches = np.lib.stride_tricks.sliding_window_view(x.astype("float64"), (3, 3), axis=(1, 2))
    return np.einsum("nijcab,abcf->nijf", patches, kernel) + bias


def test_first_layer_is_the_cumulative_sample_weighted_average_of_batch_statistics():
    x, y = images(50)
    network = batch_norm_network()
    curves.update_batch_norm(network, (x, y), batch_size=16)  # A short last batch of 2.
    activations = first_layers(network, x)
    batches = np.split(activations, [16, 32, 48])
    weights = [len(batch) / 50 for batch in batches]
    norm = network.layers[2]
    mean = sum(w * batch.mean(axis=(0, 1, 2)) for w, batch in zip(weights, batches))
    variance = sum(w * batch.var(axis=(0, 1, 2)) for w, batch in zip(weights, batches))
    assert to_numpy(norm.moving_mean) == pytest.approx(mean, rel=1e-6, abs=1e-6)
    assert mean == pytest.approx(activations.mean(axis=(0, 1, 2)), abs=1e-12)
    assert to_numpy(norm.moving_variance) == pytest.approx(variance, rel=1e-6)


def test_one_full_batch_is_exact_at_every_depth():
    x, y = images(40)
    network = batch_norm_network()
    curves.update_batch_norm(network, (x, y), batch_size=40)
    hidden = first_layers(network, x)
    hidden = np.maximum((hidden - hidden.mean((0, 1, 2))) / np.sqrt(hidden.var((0, 1, 2)) + 1e-3), 0)
    kernel, bias = (to_numpy(v).astype("float64") for v in network.get_layer("block").layers[0].variables)
    patches = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), axis=(1, 2))
    hidden = np.einsum("nijcab,abcf->nijf", patches, kernel) + bias
    nested = network.get_layer("block").layers[1]
    assert to_numpy(nested.moving_mean) == pytest.approx(hidden.mean((0, 1, 2)), abs=1e-5)
    assert to_numpy(nested.moving_variance) == pytest.approx(hidden.var((0, 1, 2)), rel=1e-4)


def test_only_statistics_change():
    x, y = images()
    network = batch_norm_network()
    norms = batch_norm_layers(network)
    assert len(norms) == 2
    statistics = {id(v) for norm in norms for v in (norm.moving_mean, norm.moving_variance)}
    before, momenta = values(network.variables), [norm.momentum for norm in norms]
    curves.update_batch_norm(network, (x, y))
    for variable, old in zip(network.variables, before):
        assert np.array_equal(to_numpy(variable), old) == (id(variable) not in statistics), variable.path
    assert [norm.momentum for norm in norms] == momenta == [0.99, 0.8]
    again = values(network.variables)
    curves.update_batch_norm(network, (x, y))  # Dropout is off: the same pass gives the same statistics.
    assert all(np.array_equal(a, b) for a, b in zip(again, values(network.variables)))


def test_an_interrupted_pass_changes_nothing():
    class Interrupted(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise KeyboardInterrupt
            x, y = images(8)
            return x, y

    network = batch_norm_network()
    before = values(network.variables)
    norms = batch_norm_layers(network)
    with pytest.raises(BaseException):  # noqa: B017 - TensorFlow wraps it in an error of its own
        curves.update_batch_norm(network, Interrupted())
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables)))
    assert [norm.momentum for norm in norms] == [0.99, 0.8]
    network(images(8)[0], training=False)  # No layer has been left in training mode.
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables)))


def test_training_goes_on_as_if_nothing_had_been_measured():
    x, y = images(32)

    def run(measure):
        keras.utils.set_random_seed(1)
        network = batch_norm_network()
        network.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        network.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        kept = network.get_weights()
        if measure:
            curves.update_batch_norm(network, (x, y), batch_size=16)
        else:
            network.predict(x, batch_size=16, verbose=0)  # On torch, both draw from the global generator.
        network.set_weights(kept)
        network.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        return network.get_weights()

    for a, b in zip(run(False), run(True)):
        assert a == pytest.approx(b, abs=1e-6)


def test_frozen_layers_keep_their_statistics():
    x, y = images()
    network = batch_norm_network()
    network.layers[2].trainable = False
    frozen = values(network.layers[2].variables)
    curves.update_batch_norm(network, (x, y))
    assert all(np.array_equal(a, b) for a, b in zip(frozen, values(network.layers[2].variables)))
    assert not np.array_equal(to_numpy(network.get_layer("block").layers[1].moving_mean), np.zeros(5))


@slow_on_tensorflow
def test_a_curve_and_its_network_at_t_agree(trained):
    start, end, x, y = trained
    model = curves.connect(start, end)
    model.t.assign(0.6)
    curves.update_batch_norm(model, (x, y), batch_size=20)
    network = model.network_at(0.6)
    kept = network.get_weights()
    curves.update_batch_norm(network, (x, y), batch_size=20)
    for a, b in zip(kept, network.get_weights()):
        assert a == pytest.approx(b, abs=1e-5)


def test_data_sets_of_the_backend():
    x, y = images(30)
    by_arrays, by_dataset = batch_norm_network(), batch_norm_network()
    by_dataset.set_weights(by_arrays.get_weights())

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return x[12 * index : 12 * index + 12], y[12 * index : 12 * index + 12]

    curves.update_batch_norm(by_arrays, (x, y), batch_size=12)
    curves.update_batch_norm(by_dataset, Batches())
    for a, b in zip(by_arrays.get_weights(), by_dataset.get_weights()):
        assert a == pytest.approx(b, abs=1e-6)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        curves.update_batch_norm(by_dataset, tf.data.Dataset.from_tensor_slices((x, y)).batch(12))
    elif keras.backend.backend() == "torch":
        import torch

        data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        curves.update_batch_norm(by_dataset, torch.utils.data.DataLoader(data, 12))
    for a, b in zip(by_arrays.get_weights(), by_dataset.get_weights()):
        assert a == pytest.approx(b, abs=1e-6)


def test_a_shared_layer_averages_its_calls():
    a, b = keras.Input((3,)), keras.Input((3,))
    norm = layers.BatchNormalization()
    network = keras.Model([a, b], [norm(a), norm(b)])
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    curves.update_batch_norm(network, ([x, x + 10], None))
    assert to_numpy(norm.moving_mean) == pytest.approx(x.mean(axis=0) + 5, abs=1e-5)
    assert to_numpy(norm.moving_variance) == pytest.approx(x.var(axis=0), rel=1e-4)


def test_unbuilt_networks():
    with pytest.raises(ValueError, match="`network` must be built"):
        curves.update_batch_norm(keras.Sequential([layers.BatchNormalization()]), (np.ones((3, 4)), np.zeros(3)))


def test_networks_without_batch_norm_and_with_renorm():
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    before = plain.get_weights()
    curves.update_batch_norm(plain, (np.ones((3, 4)), np.zeros(3)))
    assert all(np.array_equal(a, b) for a, b in zip(before, plain.get_weights()))
    if IS_BEFORE_3_14:
        return
    renorm = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(renorm=True)])
    with pytest.raises(ValueError, match="renorm=True"):
        curves.update_batch_norm(renorm, (np.ones((3, 4)), np.zeros(3)))


def test_statistics_that_are_not_finite_and_layers_that_inference_does_not_reach():
    class Auxiliary(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = layers.BatchNormalization(), layers.BatchNormalization()

        def call(self, x, training=False):
            x = self.used(x, training=training)
            return self.unused(x, training=True) if training else x

    network = Auxiliary()
    x = images()[0]
    network(x, training=True)
    network.used.moving_variance.assign(np.full(2, np.inf))
    before = to_numpy(network.unused.moving_mean)
    curves.update_batch_norm(network, (x,), batch_size=50)
    assert to_numpy(network.used.moving_variance) == pytest.approx(x.var(axis=(0, 1, 2)), rel=1e-4)
    assert to_numpy(network.unused.moving_mean) == pytest.approx(before, rel=1e-5)


@slow_on_jax
@pytest.mark.parametrize("batch_size", [40, 20, 7])
@pytest.mark.parametrize("shared", [False, True])
def test_masked_steps_do_not_count(batch_size, shared):
    """Against all valid steps at once; the last ten samples are padding alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 1.0, (50, 6, 2)).astype("float32")
    lengths = np.concatenate([rng.integers(1, 7, 40), np.zeros(10, int)])
    x[np.arange(6)[None] >= lengths[:, None]] = 0.0
    inputs = keras.Input((6, 2))
    norm = keras.layers.BatchNormalization()
    masked = norm(keras.layers.Masking(0.0)(inputs))
    if shared:
        masked = keras.layers.Add()([masked, norm(keras.layers.Masking(0.0)(inputs))])
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(masked))
    curves.update_batch_norm(network, (x, np.zeros(50)), batch_size=batch_size)
    valid = x[np.arange(6)[None] < lengths[:, None]]
    assert to_numpy(norm.moving_mean) == pytest.approx(valid.mean(axis=0), rel=1e-4)
    if batch_size == 40:  # Else it is the mean of the variances within batches.
        assert to_numpy(norm.moving_variance) == pytest.approx(valid.var(axis=0), rel=1e-3)
    before = to_numpy(norm.moving_mean)
    with pytest.raises(ValueError, match=r"masked everywhere: BatchNormalization .* sees no valid step"):
        curves.update_batch_norm(network, (np.zeros((8, 6, 2)), np.zeros(8)))
    assert np.array_equal(to_numpy(norm.moving_mean), before)
