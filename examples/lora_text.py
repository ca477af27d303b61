"""LoRA: a small transformer that tells packages by their docstrings learns to tell parts of scikit-learn, from few."""

import ast
import functools
import pathlib
import re
import zlib

import keras
import numpy as np
import scipy
import sklearn
from keras import layers, ops

import keras_fge

PACKAGES = [pathlib.Path(module.__file__).parent for module in (keras, np, scipy)]
PARTS = [pathlib.Path(sklearn.__file__).parent / name for name in ("linear_model", "ensemble", "metrics", "utils")]
WORDS, LENGTH, RATE = 4000, 48, 0.003


@functools.cache
def docstrings(folder):
    trees = [ast.parse(path.read_text("utf8")) for path in folder.rglob("*.py") if "test" not in str(path)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sorted({ast.get_docstring(node) for node in nodes} - {None})


def load(folders, seed, most):
    """The numbers of the words of texts, (N, LENGTH), and the folder that each text is from, in random order."""
    texts = [np.random.default_rng(seed).permutation(docstrings(folder))[:most] for folder in folders]
    words = [re.findall(r"[a-z]+", text.lower())[:LENGTH] for part in texts for text in part]
    x = np.array([[zlib.crc32(w.encode()) % WORDS + 1 for w in row] + [0] * (LENGTH - len(row)) for row in words])
    y = np.repeat(np.arange(len(folders)), [len(part) for part in texts])
    return [array[np.random.default_rng(seed).permutation(len(x))] for array in (x, y)]


def fit(network, x, y, epochs, seed, callback=None):
    network.compile(keras.optimizers.AdamW(RATE), "sparse_categorical_crossentropy", jit_compile=False)
    paper = keras_fge.PaperTraining(RATE, epochs)
    network.fit(keras_fge.Batches(x, y, 32, seed), epochs=epochs, verbose=0, callbacks=[callback or paper])


def run(seed, most=1200, pretrain_epochs=4, epochs=20):
    """Test metrics of one network and of the FGE ensemble, and the share of the weights that a member holds."""
    keras.utils.set_random_seed(seed)
    tokens, attention = keras.Input((LENGTH,), dtype="int32"), layers.MultiHeadAttention(4, 16)
    h = layers.Embedding(WORDS + 1, 64)(tokens) + layers.Embedding(LENGTH, 64)(ops.cumsum(ops.ones_like(tokens), 1) - 1)
    h = layers.LayerNormalization()(h + attention(h, h))
    wide, narrow = layers.Dense(128, activation="relu"), layers.Dense(64)
    body = keras.Model(tokens, layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h + narrow(wide(h)))))
    classifier = keras.Sequential([body, layers.Dense(len(PACKAGES), activation="softmax")])
    fit(classifier, *load(PACKAGES, seed, most), pretrain_epochs, seed)

    for layer in body.layers:
        layer.trainable = False
    for layer in (attention.query_dense, attention.value_dense, wide, narrow):
        layer.trainable = True
        layer.enable_lora(4)
    (x, x_test), (y, y_test) = (np.split(array, [300]) for array in load(PARTS, seed, 400))
    network = keras.Sequential([body, layers.Dense(len(PARTS), activation="softmax")])
    start = network.get_weights()
    fit(network, x, y, epochs, seed)
    one = keras_fge.Ensemble.of([network]).evaluate(x_test, y_test, calibrate=True)
    fge = keras_fge.FGE(3 * RATE, 0.03 * RATE, cycle_epochs=2, start_epoch=epochs // 2)
    network.set_weights(start)
    fit(network, x, y, epochs, seed, fge)
    share = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables) / network.count_params()
    ensemble = fge.ensemble().evaluate(x_test, y_test, calibrate=True)
    return {"one network": one, "FGE": ensemble, "a member": {"share of the weights": share}}


if __name__ == "__main__":
    print(run(seed=0))
