"""Kinds of `fit` as users write them, from the first line to the ensemble. (Serving, tuners, scikit-learn and notebooks
have tests of their own: test_serving.py, test_companions.py, test_examples.py, test_explorer.py.)
"""

import keras
import numpy as np
import pandas
import pytest
from keras import layers, ops
from sklearn.datasets import load_digits

import curves
import keras_fge
from conftest import slow_on_jax, slow_on_tensorflow

C = keras.callbacks
X, Y = load_digits(return_X_y=True)
X = (X[:400] / 16).astype("float32")
Y = Y[:400]
TRAIN, VALIDATION = (X[:300], Y[:300]), (X[300:], Y[300:])


def check(fge, history, epochs, members, key="nll", data=VALIDATION):
    """What holds after each of them: members, a table of the History, a comparison, and an ensemble that predicts."""
    table = pandas.DataFrame(history.history)
    assert len(fge.snapshots) == members and len(table) == epochs and not table.isna().any(axis=None)
    assert fge.comparison.keys() >= {"last network", "ensemble"}
    assert np.isfinite([row[key] for row in fge.comparison.values()]).all()
    assert "last network" in str(fge)
    if data is None:  # Predictions are drawn at random.
        return
    measured = fge.ensemble().evaluate(*data[:2], sample_weight=data[2] if len(data) > 2 else None)
    assert measured[key] == pytest.approx(fge.comparison["ensemble"][key], rel=1e-4)


@slow_on_jax
def test_a_frozen_backbone_with_adamw_and_five_callbacks(tmp_path):
    backbone = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu")], name="backbone")
    backbone.trainable = False
    network = keras.Sequential([keras.Input((64,)), backbone, layers.Dropout(0.2, seed=1), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.AdamW(0.003, weight_decay=0.01), loss, metrics=["accuracy"])
    fge = keras_fge.FGE(cycle_epochs=2, start_epoch=2, directory=tmp_path / "run", resume=True)
    callbacks = [
        C.TerminateOnNaN(),
        C.LambdaCallback(),
        fge,
        C.CSVLogger(tmp_path / "log.csv"),
        C.EarlyStopping("ensemble_nll", mode="min", patience=8),
        C.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
    ]
    data = fge.batches(*TRAIN, batch_size=50)
    history = network.fit(data, epochs=8, validation_data=VALIDATION, verbose=0, callbacks=callbacks)
    check(fge, history, 8, 3)
    ensemble = keras_fge.Ensemble.load(tmp_path / "run")
    assert ensemble.evaluate(*VALIDATION)["nll"] == pytest.approx(fge.comparison["ensemble"]["nll"], rel=1e-5)
    frozen = [s.weights[0] for s in ensemble.snapshots]
    assert all(np.array_equal(frozen[0], kernel) for kernel in frozen)


def classifier(outputs=10, activation="softmax"):
    network = keras.Sequential([keras.Input((64,)), layers.Dense(24, "relu"), layers.Dense(outputs, activation)])
    network.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def test_tf_data_that_repeats():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(TRAIN).shuffle(300, seed=1).repeat().batch(50)
    validation = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(50)
    network, fge = classifier(), keras_fge.FGE(cycle_epochs=1)
    history = network.fit(data, epochs=4, steps_per_epoch=5, validation_data=validation, verbose=0, callbacks=[fge])
    check(fge, history, 4, 4)
    assert [s.step for s in fge.snapshots] == [3, 8, 13, 18]  # 5 steps: the second of the two in the middle.


def test_a_torch_data_loader():
    torch = pytest.importorskip("torch")
    if keras.backend.backend() != "torch":
        pytest.skip("A DataLoader makes sense on torch.")

    def loader(x, y):
        data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return torch.utils.data.DataLoader(data, batch_size=50)

    network, fge = classifier(), keras_fge.FGE(cycle_epochs=2)
    history = network.fit(loader(*TRAIN), epochs=4, validation_data=loader(*VALIDATION), verbose=0, callbacks=[fge])
    check(fge, history, 4, 2)


@keras.saving.register_keras_serializable("fits")
class Sampling(layers.Layer):
    """z = mean + noise, and the divergence from the prior as a loss of the layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, moments):
        mean, log_variance = ops.split(moments, 2, axis=-1)
        divergence = 0.5 * ops.sum(mean**2 + ops.exp(log_variance) - log_variance - 1, axis=-1)
        self.add_loss(1e-3 * ops.mean(divergence))
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed)


@slow_on_tensorflow
def test_a_variational_autoencoder():
    inputs = keras.Input((64,))
    z = Sampling()(layers.Dense(8)(layers.Dense(32, "relu")(inputs)))
    network = keras.Model(inputs, layers.Dense(64, "sigmoid")(layers.Dense(32, "relu")(z)))
    network.compile(keras.optimizers.Adam(0.003), "binary_crossentropy")
    fge = keras_fge.FGE(0.005, cycle_epochs=2, metrics="compiled")
    history = network.fit(
        TRAIN[0], TRAIN[0], 50, epochs=4, validation_data=(VALIDATION[0],) * 2, verbose=0, callbacks=[fge]
    )
    check(fge, history, 4, 2, "loss", None)


class OwnStep(keras.Model):
    """Trains with a penalty of its own, by `compute_loss`; the step is that of each backend."""

    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(10, "softmax")])

    def call(self, inputs):
        return self.inner(inputs)

    def train_step(self, *args):
        return super().train_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight) + 1e-3 * ops.mean(y_pred**2)


@slow_on_jax
def test_a_train_step_of_ones_own():
    network = OwnStep()
    network.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    network(X[:1])
    fge = keras_fge.FGE(cycle_epochs=2, validation_data=VALIDATION)
    history = network.fit(*TRAIN, 50, epochs=4, verbose=0, callbacks=[fge])
    check(fge, history, 4, 2)


def test_a_table_with_lookups_and_sample_weights():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras' lookup layers work in a network on TensorFlow alone.")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"kind": rng.integers(0, 5, 300), "size": rng.normal(size=300)}, index=range(1000, 1300))
    target = pandas.Series((frame["kind"] > 2) ^ (frame["size"] > 1), index=frame.index).astype("float32")
    lookup = layers.IntegerLookup(output_mode="one_hot")
    lookup.adapt(frame["kind"].to_numpy())
    inputs = {"kind": keras.Input((1,), name="kind", dtype="int64"), "size": keras.Input((1,), name="size")}
    x = layers.Concatenate()([lookup(inputs["kind"]), inputs["size"]])
    network = keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.Dense(8, "relu")(x)))
    network.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", weighted_metrics=["accuracy"])
    arrays = {name: frame[[name]].to_numpy() for name in frame}
    weights = rng.uniform(0.5, 1.5, 300)
    fge = keras_fge.FGE(cycle_epochs=2)
    history = network.fit(arrays, target, 50, epochs=4, sample_weight=weights, verbose=0, callbacks=[fge],
                          validation_data=(arrays, target.to_numpy(), weights))  # fmt: skip
    check(fge, history, 4, 2, data=(arrays, target.to_numpy(), weights))


@slow_on_jax
def test_a_transformer_with_masks_in_bfloat16():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 20, (200, 12)) * (np.arange(12) < rng.integers(4, 12, (200, 1)))
    labels = (tokens == 3).any(axis=1).astype(int)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((12,), dtype="int32")
        x = layers.Embedding(20, 16, mask_zero=True)(inputs)
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)]))
        network = keras.Model(inputs, layers.Dense(2, "softmax", dtype="float32")(layers.GlobalAveragePooling1D()(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    network.compile(keras.optimizers.AdamW(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    fge = keras_fge.FGE(cycle_epochs=2)
    data = (tokens[:150], labels[:150]), (tokens[150:], labels[150:])
    history = network.fit(*data[0], 50, epochs=4, validation_data=data[1], verbose=0, callbacks=[fge])
    check(fge, history, 4, 2, data=data[1])


@slow_on_tensorflow
def test_a_curve_between_fine_tuned_networks():
    start = classifier()
    start.fit(*TRAIN, 50, epochs=3, verbose=0)
    tuned = []
    for seed in (1, 2):
        network = keras_fge.Ensemble.of([start])[0]  # A copy that can be trained on.
        network.fit(keras_fge.Batches(*TRAIN, 50, seed), epochs=3, verbose=0)
        tuned.append(network)
    curve = curves.connect(*tuned, seed=0)
    curve.fit(*TRAIN, 50, epochs=3, verbose=0)
    result = curves.evaluate_path(curve, TRAIN, VALIDATION, num_points=5)
    assert result.train["loss"].max() < 2 * max(result.train["loss"][[0, -1]]) + 0.1
    ensemble = keras_fge.Ensemble.of([curve.network_at(t) for t in (0.0, 0.5, 1.0)])
    assert ensemble.evaluate(*VALIDATION)["error"] < 0.2
