"""Whatever happens to a file in the folder of a run: the same result, or an error that names the file or the folder.

KFGE_EXAMPLES=20000 in the environment tries so many kinds of damage; KFGE_RECORD=FILE adds a line to a file.
"""

import collections
import json
import os
import shutil
import warnings

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_fge
import killed
from conftest import SLOW_BUT_ON_TORCH, logits_loss, values
from keras_fge.core.files import checksum, read_npz, to_npz, write_atomically

pytestmark = SLOW_BUT_ON_TORCH

EXAMPLES = int(os.environ.get("KFGE_EXAMPLES", 0))
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 2


def examples(count):
    """So many random cases, the same in each run, or as many new ones as the environment says."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def network(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    return model


def fit(model, folder):
    fge = keras_fge.FGE(0.02, 0.001, cycle_steps=4, directory=folder, resume=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There was nothing to train")
        model.fit(fge.batches(X, Y, batch_size=4, seed=1), epochs=3, verbose=0, callbacks=[fge])
    return fge


def result(folder, model):
    """What one gets from the folder: by loading it, and by resuming the run that is in it, which is finished."""
    ensemble = keras_fge.Ensemble.load(folder)
    loaded = [ensemble.from_logits, ensemble.network.get_config(), ensemble.network.get_weights()]
    fge = fit(model, folder)
    resumed = values(model.variables + model.optimizer.variables), model.history.epoch
    members = [
        [(snapshot.step, snapshot.learning_rate, snapshot.metrics, snapshot.weights) for snapshot in snapshots]
        for snapshots in (ensemble.snapshots, fge.snapshots)
    ]
    return json.dumps([loaded, resumed, members], default=lambda array: np.asarray(array).tolist())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(a run, another one with other weights, a place to work in, an untrained network, the result of the first)."""
    root = tmp_path_factory.mktemp("damage")
    for seed in (0, 1):
        fit(network(seed), root / f"run-{seed}")
    model = network(2)
    shutil.copytree(root / "run-0", root / "work")
    expected = result(root / "work", model)
    assert expected != result(root / "run-1", model)
    return root / "run-0", root / "run-1", root / "work", model, expected


def role(path):
    return path.name.split("-")[0]


seen: collections.Counter = collections.Counter()


def check_damage(folders, data):
    """Damages one file of a run."""
    run, other, work, model, expected = folders
    shutil.rmtree(work)
    shutil.copytree(run, work)
    path = data.draw(st.sampled_from(sorted(work.iterdir())), label="file")
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["changed", "changed", "changed", "cut", "removed", "swapped"]), label="kind")
    if kind == "changed":
        position = data.draw(st.integers(0, len(content) - 1), label="position")
        content[position] ^= data.draw(st.integers(1, 255), label="bits")
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="length")])
    elif kind == "removed":
        path.unlink()
    else:
        theirs = [file for file in sorted(other.iterdir()) if role(file) == role(path)]
        shutil.copy(data.draw(st.sampled_from(theirs), label="theirs"), path)
    try:
        received = result(work, model)
    except (ValueError, OSError) as error:
        assert str(work) in str(error), error
        seen["an error that names it"] += 1
    else:
        assert received == expected
        seen["the same result"] += 1


@pytest.mark.parametrize("count", [80, pytest.param(500, marks=pytest.mark.slow)])
def test_damage_is_noticed_or_harmless(folders, count):
    seen.clear()
    examples(count)(given(data=st.data())(check_damage))(folders)
    assert seen["an error that names it"] and seen.total() >= count
    killed.note(damaged="one file of a run", **seen, another_result=0)


JUNK = [None, True, -1, 0, 7, 10**30, 0.5, float("nan"), float("inf"), "", "x", "../x", [], [0], [[3]], {}, {"x": 0}]


def places(content):
    """All entries of what is read from JSON: (the dictionary or list, the key)."""
    items = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    for key, value in list(items):
        yield content, key
        yield from places(value)


def check_entry(folders, data):
    """Changes one entry of manifest or state, whose checksums are then right again, or not looked at."""
    run, _, work, model, _ = folders
    shutil.rmtree(work)
    shutil.copytree(run, work)
    is_state = data.draw(st.booleans(), label="state")
    file = work / ("state.npz" if is_state else "manifest.json")
    arrays = read_npz(file, file) if is_state else {}
    content = json.loads(str(arrays["counters"]) if is_state else file.read_text())
    # Not each of the thousands of numbers in the generators of random numbers.
    names = data.draw(st.sampled_from(sorted(content)), label="entry")
    below = [(content, names), *places(content[names])]
    owner, key = below[data.draw(st.integers(0, len(below) - 1), label="place")]
    if data.draw(st.booleans(), label="removed"):
        del owner[key]
    else:
        owner[key] = data.draw(st.sampled_from(JUNK), label="junk")
    if is_state:
        write_atomically(file, to_npz({**arrays, "counters": json.dumps(content)}))
    else:
        if data.draw(st.booleans(), label="checksum"):
            content.pop("checksum", None)
            content["checksum"] = checksum(content)
        file.write_text(json.dumps(content))
    for attempt in (
        lambda: keras_fge.Ensemble.load(work, verify=False),
        lambda: keras_fge.Ensemble.load(work),
        lambda: fit(model, work).ensemble(),
    ):
        try:
            ensemble = attempt()
            repr(ensemble)
            ensemble.predict(X)
        except ValueError as error:
            assert str(work) in str(error), error
            seen["an error that names it"] += 1
        else:
            seen["something"] += 1


@pytest.mark.parametrize("count", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_an_entry_of_another_kind_is_one_error(folders, count):
    seen.clear()
    examples(count)(given(data=st.data())(check_entry))(folders)
    assert seen["an error that names it"] > count / 3 and seen["something"] > count / 3
