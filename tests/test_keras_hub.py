"""A KerasHub model with LoRA, from a small random configuration: members and curves of the adapters."""

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import logits_loss, values

keras_hub = pytest.importorskip("keras_hub")
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 30, (24, 10)).astype("int32")
LABELS = RNG.integers(0, 3, 24)
X = {"token_ids": TOKENS, "segment_ids": np.zeros_like(TOKENS), "padding_mask": np.ones_like(TOKENS)}


def classifier():
    backbone = keras_hub.models.BertBackbone(30, 2, 2, hidden_dim=8, intermediate_dim=16, max_sequence_length=10)
    network = keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None, dropout=0.0)
    backbone.enable_lora(2)
    network.compile(keras.optimizers.Adam(0.01), logits_loss(), metrics=["accuracy"])
    return network


def test_members_are_small_and_the_ensemble_is_the_mean(tmp_path):
    network = classifier()
    fge = keras_fge.FGE(0.01, 0.001, cycle_epochs=1, directory=tmp_path)
    network.fit(X, LABELS, batch_size=6, epochs=2, shuffle=False, verbose=0, callbacks=[fge])
    trained = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    for snapshot in fge.snapshots:
        assert sum(w.size for i, w in enumerate(snapshot.weights) if i not in snapshot.shared) == trained
    ensemble = keras_fge.Ensemble.load(tmp_path)
    members = [keras.ops.convert_to_numpy(keras.ops.softmax(m.predict(X, verbose=0))) for m in ensemble]
    assert not np.allclose(*members)
    assert ensemble.predict(X) == pytest.approx(np.mean(members, axis=0), abs=1e-6)
    assert ensemble[0].compiled and ensemble.average_weights().compiled
    one = ensemble.to_model()
    assert one.predict(X, verbose=0) == pytest.approx(ensemble.predict(X), abs=1e-6)


@pytest.mark.slow
def test_a_curve_between_two_of_them():
    keras.utils.set_random_seed(0)
    start = classifier()
    end = classifier()
    end.set_weights(start.get_weights())
    for seed, network in enumerate((start, end)):
        keras.utils.set_random_seed(seed)
        network.fit(X, LABELS, batch_size=6, epochs=2, verbose=0)
    curve = curves.connect(start, end, seed=0)
    curve.compile(keras.optimizers.SGD(0.05), logits_loss(), metrics=["accuracy"])
    before = values(curve.body.bends[1])
    curve.fit(X, LABELS, batch_size=6, epochs=1, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, values(curve.body.bends[1])))
    for t, network in ((0.0, start), (1.0, end), (0.5, curve.network_at(0.5))):
        curve.t = t
        assert curve.predict(X, verbose=0) == pytest.approx(network.predict(X, verbose=0), abs=1e-5)
