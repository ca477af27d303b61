"""Addresses of object stores are refused at each door, before a folder "s3:" is made; copies of folders load."""

import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, logits_loss
from keras_fge.core.files import local_path
from study import records

pytestmark = SLOW_BUT_ON_TORCH
ADDRESS = "s3://bucket/run"
X, Y = np.random.default_rng(0).normal(size=(20, 4)).astype("float32"), np.arange(20) % 3


def network():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", logits_loss(), metrics=["accuracy"])
    return model


def ensemble():
    return keras_fge.Ensemble.of([network(), network()], from_logits=True)


def path_result():
    curve = curves.connect(network(), network(), seed=0)
    curve.compile("sgd", logits_loss(), metrics=["accuracy"])
    return curve, curves.evaluate_path(curve, (X, Y), (X, Y), 3, verbose=False, line=False)


DOORS = {
    "FGE": lambda at: keras_fge.FGE(0.05, 0.001, cycle_steps=4, directory=at),
    "SnapshotEnsemble": lambda at: keras_fge.SnapshotEnsemble(0.05, cycle_steps=4, directory=at),
    "Checkpoint": lambda at: keras_fge.Checkpoint(at),
    "EMA": lambda at: keras_fge.EMA((1.0,), directory=at),
    "Ensemble.save": lambda at: ensemble().save(at),
    "Ensemble.load": keras_fge.Ensemble.load,
    "Conformal.save": lambda at: ensemble().conformal(X, Y, alpha=0.2).save(at),
    "Conformal.load": keras_fge.Conformal.load,
    "PathResult.save": lambda at: path_result()[1].save(at),
    "PathResult.load": curves.PathResult.load,
    "PathResult.plot": lambda at: path_result()[1].plot(at),
    "PathResult.to_html": lambda at: path_result()[1].to_html(at),
    "reliability.plot": lambda at: ensemble().reliability(X, Y).plot(at),
    "write_json": lambda at: records.write_json({}, at),
    "opened_record": lambda at: records.opened_record(at, types.SimpleNamespace(seed=0)),
    "evaluate_path": lambda at: curves.evaluate_path(path_result()[0], (X, Y), (X, Y), 3, file=at, verbose=False),
    "evaluate_plane": lambda at: curves.evaluate_plane(
        [network() for _ in range(3)], (X, Y), (X, Y), file=at, verbose=False
    ),
}


@pytest.mark.parametrize("address", [ADDRESS, pathlib.Path(ADDRESS), "gs://bucket/run", "simplecache::s3://bucket/run"])
@pytest.mark.parametrize("door", DOORS)
def test_an_address_is_refused(door, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is an address, not a place in a file system.*fsspec"):
        DOORS[door](address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["run", "/a/run", "C:/run", "a:b/c", pathlib.Path("run"), "", "s3"])
def test_paths_are_not(path):
    assert local_path(path) == str(path)


def test_the_benchmark_refuses_it_before_it_begins(tmp_path):
    program = pathlib.Path(__file__).parents[1] / "benchmarks/cifar.py"
    command = [sys.executable, program, "--preset=smoke", f"--output_dir={ADDRESS}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "is an address, not a place in a file system" in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_copied_as_the_error_says_is_the_same_ensemble(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    fs, at = fsspec.url_to_fs("memory://bucket/run")
    for number in (1, 2):  # The second round finds both folders there.
        ours, folder = ensemble(), tmp_path / f"ours_{number}"
        ours.save(folder)
        fs.put(f"{folder}/", at + "/", recursive=True)
        fs.get(at + "/", f"{tmp_path}/theirs/", recursive=True)
        theirs = keras_fge.Ensemble.load(tmp_path / "theirs")
        assert np.array_equal(theirs.predict(X), ours.predict(X))
