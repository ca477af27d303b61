"""The study of fine-tuning, on a small random transformer and made-up sentences."""

import dataclasses
import types

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub")

import curves
from conftest import to_numpy
from evidence import finetuning, finetuning_methods, lora_pairs
from evidence.finetuning_methods import WAYS
from inputs import sentences
from test_finetuning_methods import check_methods

WORDS = ["red green", "one two", "cat dog"]


@pytest.fixture
def folder(tmp_path):
    """Sentences of three kinds as the classes of TREC, and as many others; one stands in training and test."""

    def lines(count, first):
        rng = np.random.default_rng(first)
        return [f"{k % 3} {' '.join(rng.choice(WORDS[k % 3].split(), 3))} {first + k}" for k in range(count)]

    (tmp_path / "TREC.train.all").write_text("\n".join([*lines(60, 0), lines(1, 900)[0]]))
    (tmp_path / "TREC.test.all").write_text("\n".join(lines(20, 900)))
    (tmp_path / "subj.all").write_bytes("\n".join(f"{k % 2} caf\xe9 {k}" for k in range(40)).encode("latin-1"))
    return tmp_path


def setup_of(way, folder):
    return finetuning.setup_of("trec", way, folder, None, folder / "records")


def test_no_sentence_stands_in_two_parts(folder):
    data = sentences.load("trec", folder)
    assert (len(data.train[0]), len(data.validation[0]), len(data.test[0]), data.num_classes) == (48, 12, 20, 3)
    parts = [set(texts) for texts, _ in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 80
    for texts, labels in (data.train, data.test):
        assert all(set(text.split()[:3]) <= set(WORDS[label].split()) for text, label in zip(texts, labels))
    assert sentences.load("subj", folder).test[0][0].startswith("caf\xe9")


def test_features_are_the_mean_over_the_tokens_of_a_sentence(folder):
    encoder = sentences.make_encoder(sentences.make_backbone())
    tokens = sentences.encoded(["a b c", " ".join("abcdefghijklmnopqrst"), "d"])
    alone = keras.ops.convert_to_numpy(encoder({name: array[:1, :3] for name, array in tokens.items()}))
    assert sentences.features_of(encoder, tokens)[:1] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lora", "all"])  # test_finetuning_methods.py trains heads.
def test_each_method_trains_and_is_measured(way, folder):
    setup = setup_of(way, folder)
    setup = dataclasses.replace(setup, batch_size=8)
    found = check_methods(setup, WAYS[way])
    trained = sum(int(np.prod(w.shape)) for w in setup.new_network(0).trainable_weights)
    assert found["bytes_a_member"] == 4 * trained


@pytest.mark.slow
def test_lora_and_full_fine_tuning_begin_at_the_trained_head(folder):
    of_features = setup_of("head", folder)
    head = finetuning_methods.ordinary(of_features, 3, *finetuning.HEAD)
    expected = head.predict(of_features.test[0], verbose=0)
    for way in ("lora", "all"):
        setup = setup_of(way, folder)
        assert setup.new_network(3).predict(setup.test[0], verbose=0) == pytest.approx(expected, abs=1e-4)
        assert dataclasses.replace(setup, batch_size=7).steps == 7  # 48 sentences.


def lora_factors_of(network):
    """The factors A, at random before the training; B are zeros."""
    return [to_numpy(weight) for weight in network.trainable_variables if weight.path.endswith("_a")]


@pytest.mark.slow
def test_updates_of_lora_on_a_line(folder, monkeypatch):
    """The ends of all paths are the two networks, and the line of the updates is that of the merged kernels."""
    monkeypatch.setattr(lora_pairs, "FLAGS", types.SimpleNamespace(rate=0.01, epochs=2))
    setup, data = dataclasses.replace(setup_of("lora", folder), batch_size=16), sentences.load("trec", folder)

    def new_plain():
        return finetuning.with_head(finetuning.encoder_of(sentences, None, data), 3)

    found = lora_pairs.measure_pair(setup, new_plain, "rates", 0)
    for values in found.values():
        assert len(values["train_nll"]) == lora_pairs.POINTS and np.isfinite(values["test_error"]).all()
        for k in (0, -1):
            assert values["train_nll"][k] == pytest.approx(found["line"]["train_nll"][k], abs=1e-4)
    assert found["aligned line"]["distance"] <= found["line"]["distance"] * (1 + 1e-6)
    first, second = (lora_factors_of(setup.new_network(seed)) for seed in (0, 1000))
    assert len(first) > 1 and all(np.abs(a - b).max() > 0.01 for a, b in zip(first, second))  # Not the same beginning.
    network, other = (finetuning_methods.ordinary(setup, seed, 0.01, 0.01, 2) for seed in (0, 1000))
    ends = [lora_pairs.merged(each, new_plain(), setup.test[0]) for each in (network, other)]
    middle = new_plain()
    middle.set_weights([(a + b) / 2 for a, b in zip(*(each.get_weights() for each in ends))])
    middle.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    again = lora_pairs.measured(curves.connect(*ends, curves.PolygonalChain(2)), setup)
    assert again["train_nll"][5] == pytest.approx(middle.evaluate(*setup.train, verbose=0), abs=1e-4)
