"""Photographs that are decoded when they are asked for, and the study of ImageNet on a folder of generated ones."""

import json
import os
import types

import keras
import numpy as np
import pytest
from absl import app
from PIL import Image

import keras_fge
from conftest import slow_but_on_torch
from evidence import imagenet
from inputs import photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of mixed sizes and modes, in three classes of other brightness."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for label in range(3):
            (root / split / f"n{label}").mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(70 + 50 * label, 40, (*rng.integers(36, 90, 2), 3)).clip(0, 255).astype("uint8")
                image = Image.fromarray(pixels).convert(["RGB", "L", "CMYK"][index % 3])
                image.save(root / split / f"n{label}" / f"{index:02}.jpg", quality=95)
    return root


@pytest.mark.once
def test_rows_are_the_middle_of_each_photograph(folder):
    data, classes = photos.of_folder(folder, 32)
    taken, labels = data["train"]
    assert classes == 3 and taken.shape == (60, 32, 32, 3) and labels.tolist() == sorted(20 * [0, 1, 2])
    rows = np.array([1, 7, 40])
    for row, ours in zip(rows, taken[rows], strict=True):
        with Image.open(taken.sources[row]) as image:
            image = image.convert("RGB")
        # 37 pixels are the shorter side of which 32 are taken; the mean colour survives all of it.
        assert ours.dtype == "uint8" and ours.mean() == pytest.approx(np.asarray(image).mean(), abs=6)
        size = [max(round(side * 37 / min(image.size)), 37) for side in image.size]
        whole = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        top, left = ((side - 32) // 2 for side in whole.shape[:2])
        assert np.abs(ours - whole[top : top + 32, left : left + 32].astype(float)).mean() < 8  # JPEG's draft mode.


@pytest.mark.once
def test_what_is_held_out_is_in_one_part(folder):
    taken, labels = photos.of_folder(folder, 32)[0]["train"]
    others, held_out = photos.split(taken, labels, 15)
    assert (len(others[0]), len(held_out[0])) == (45, 15)
    sources = [set(part[0].sources) for part in (others, held_out)]
    assert not sources[0] & sources[1] and sources[0] | sources[1] == set(taken.sources)
    for part, its_labels in (others, held_out):
        assert [f"n{label}" for label in its_labels] == [source.parent.name for source in part.sources]


@pytest.mark.once
def test_what_is_no_photograph_is_named(tmp_path):
    with pytest.raises(ValueError, match="must hold photographs as train/<class>/<file>"):
        photos.of_folder(tmp_path, 32)
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg is no image that can be read: remove or replace it"):
        photos.Photos([tmp_path / "a.jpg"], 32)[np.array([0])]


@pytest.mark.once
def test_through_tensorflow_datasets(monkeypatch, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    with tfds.testing.mock_data(num_examples=6):
        data, classes = photos.of_tfds("imagenet2012", tmp_path, 32)
        (taken, labels), (_, test_labels) = data["train"], data["val"]
        assert classes == 1000 and len(labels) == len(test_labels) == 6
        assert taken[np.arange(3)].shape == (3, 32, 32, 3)
        source = tfds.builder("imagenet2012", data_dir=tmp_path).as_data_source(split="train")
        assert [source[row]["label"] for row in range(6)] == labels.tolist()


@slow_but_on_torch
def test_the_study_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    values = {"network": "small", "epochs": 4, "held_out": 15, "dataset": None, "data_dir": folder}
    monkeypatch.setattr(imagenet, "FLAGS", types.SimpleNamespace(output=tmp_path / "study", **values))
    monkeypatch.setattr(imagenet, "BATCH_SIZE", 8)
    monkeypatch.setattr(imagenet, "RATES", (0.05, 0.001))
    own = keras.Model.fit

    def fit(model, *args, callbacks, **arguments):
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise KeyboardInterrupt

        return own(model, *args, callbacks=[*callbacks, Stop()], **arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.Model, "fit", fit)
        imagenet.main(None)
    imagenet.main(None)
    record = json.loads((tmp_path / "study/record.json").read_text())
    names = ["one network", "member 1", "member 2", "FGE", "mean of the weights"]
    assert list(record["errors"]) == names and record["data"] == {"train": 45, "held_out": 15, "test": 24}
    ensemble = keras_fge.Ensemble.load(tmp_path / "study/checkpoints/fge")
    taken, labels = photos.of_folder(folder, 32)[0]["val"]
    wrong = np.argmax(ensemble.predict(taken[np.arange(24)]), axis=1) != labels
    assert record["errors"]["FGE"]["top1"] == pytest.approx(wrong.mean())
    assert record["errors"]["FGE"]["top5"] == 0  # Of three classes.
    before = os.path.getmtime(tmp_path / "study/record.json")
    with pytest.warns(UserWarning, match="nothing to train"):
        imagenet.main(None)
    assert os.path.getmtime(tmp_path / "study/record.json") == before


@slow_but_on_torch
def test_resnet50_sees_what_its_weights_were_trained_on(monkeypatch, tmp_path):
    """With another backbone: Keras would download the weights."""
    shape, inputs = (224, 224, 3), keras.Input((224, 224, 3))
    features = keras.layers.Flatten()(keras.layers.AveragePooling2D(32)(inputs))
    backbone = keras.Model(inputs, keras.layers.Dense(1000)(features))
    monkeypatch.setattr(keras.applications, "ResNet50", lambda weights, classifier_activation: backbone)
    network = imagenet.resnet50(1000)
    x = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("uint8")
    expected = backbone.predict(keras.applications.resnet.preprocess_input(x.astype("float32")), verbose=0)
    assert network.predict(x, verbose=0) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    network.save(tmp_path / "network.keras")  # A folder of FGE has it so.
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.predict(x, verbose=0) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    with pytest.raises(app.UsageError, match="knows 1000 classes"):
        imagenet.resnet50(10)
