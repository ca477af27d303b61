"""Processes that are killed at random steps and file operations, again and again, and end with the same results.

KFGE_KILLS=100 in the environment kills so many of each kind; KFGE_RECORD=FILE adds a line for each to a file.
"""

import json
import os
import random
import signal

import keras
import pytest

import keras_fge
import killed
from conftest import slow_but_on_torch
from study.records import Records

BACKEND = keras.backend.backend()
KILLS = int(os.environ.get("KFGE_KILLS", 2))

MEASURED = """
keras.utils.set_random_seed(0)
networks = [batch_norm_network() for _ in range(3)]
curve = curves.connect(*networks[:2])
curve.set_bend(1, networks[2])
curve.compile("sgd", logits_loss(), metrics=["accuracy"])
os.makedirs(folder, exist_ok=True)
measure = lambda **numbers: curves.{function}(
    curve, (x, y), (x[:20], y[:20]), file=folder + "/measured.npz", verbose=False, **numbers
)
"""
PROGRAMS = {
    "fge": """
network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
fge = keras_fge.FGE(0.02, 0.001, cycle_steps=6, start_epoch=1, validation_data=(x, y), directory=folder, resume=True)
network.fit(fge.batches(x, y, batch_size=10, seed=5), epochs=5, verbose=0, callbacks=[fge])
"""
    + killed.SAVE,
    "checkpoint": """
network.compile(keras.optimizers.Adam(0.01), logits_loss(), metrics=["accuracy"])
checkpoint = keras_fge.Checkpoint(folder)
batches = checkpoint.batches(x, y, batch_size=10, seed=5)
history = network.fit(batches, epochs=5, verbose=0, callbacks=[checkpoint])
open(folder + "/history.json", "w").write(json.dumps([history.epoch, history.history]))
"""
    + killed.SAVE,
    "mid_epoch": """
from keras_fge.run.state import StateFile
StateFile.is_due = lambda self, least=0: True
network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
fge = keras_fge.FGE(0.02, 0.001, cycle_steps=6, start_epoch=1, directory=folder, resume=True, every=0)
network.fit(fge.batches(x, y, batch_size=5, seed=5), epochs=4, shuffle=False, verbose=0, callbacks=[fge])
"""
    + killed.SAVE,
    "path": MEASURED.format(function="evaluate_path") + "measure(num_points=6)",
    "plane": MEASURED.format(function="evaluate_plane") + "measure(num_points=3)",
    "benchmark": """
sys.argv = ["benchmarks/cifar.py", "--preset=smoke", "--output_dir=" + folder]
sys.path.insert(0, "benchmarks")
try:
    runpy.run_path("benchmarks/cifar.py", run_name="__main__")
except SystemExit as end:
    if end.code:
        raise
""",
}
KINDS = list(PROGRAMS)
BEGUN = {**dict.fromkeys(KINDS, "."), "fge": "manifest.json", "mid_epoch": "manifest.json", "checkpoint": "state.npz"}


def contents(kind, folder):
    """What is to be the same, however often the process was killed."""
    if kind == "benchmark":
        units = {unit: dict(record["metrics"]) for unit, record in Records(folder).units.items()}
        for metrics in units.values():
            metrics.pop("seconds_per_epoch", None)
        return units
    names = ["measured.npz"] if kind in ("path", "plane") else ["end.npz"]
    names += ["history.json"] if kind == "checkpoint" else []
    members = json.loads((folder / "manifest.json").read_text())["members"] if "manifest" in BEGUN[kind] else None
    return members, [(folder / name).read_bytes() for name in names]


def kill_until_it_is_done(kind, folder, generator, most, left):
    """Runs a program until it ends, kills it up to `left` times on the way, and returns how often."""
    kills = 0
    while True:
        # Another seed each time: all that is random comes from the folder, once a run has begun there.
        seed = kills if (folder / BEGUN[kind]).exists() else 0
        result = killed.run(PROGRAMS[kind], folder, generator.randint(1, most) if kills < left else 0, seed)
        if result.returncode == 0:
            return kills
        assert result.returncode == -signal.SIGKILL, result.stderr
        kills += 1
        if (
            "manifest" in BEGUN[kind] and (folder / "manifest.json").exists()
        ):  # What there is can be read at any moment.
            members = json.loads((folder / "manifest.json").read_text())["members"]
            assert not members or len(keras_fge.Ensemble.load(folder)) == len(members)


@slow_but_on_torch
@pytest.mark.parametrize(
    "kind",
    [
        "fge",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "fge"),
    ],
)
def test_a_process_killed_again_and_again_ends_with_the_same_results(kind, tmp_path, request):
    if kind == "benchmark":  # There is an undisturbed run already.
        expected, events = contents(kind, request.getfixturevalue("smoke")[0]), 1700
    else:
        result = killed.run(PROGRAMS[kind], tmp_path / "whole")
        assert result.returncode == 0, result.stderr
        expected, events = contents(kind, tmp_path / "whole"), int(result.stdout.split()[-1])
    generator, kills, rounds = random.Random(f"{BACKEND} {kind}"), 0, 0
    most = min(events // 2, 150)
    while kills < KILLS:
        folder = tmp_path / f"killed-{rounds}"
        rounds += 1
        kills += kill_until_it_is_done(kind, folder, generator, most, KILLS - kills)
        assert contents(kind, folder) == expected
        assert not list(folder.rglob("*.tmp*")) and not list(folder.rglob("fit.lock"))
    if kind == "checkpoint":  # Nothing is left to do.
        result = killed.run(PROGRAMS[kind], folder, seed=7)
        assert result.returncode == 0 and contents(kind, folder) == expected, result.stderr
    killed.note(killed=kind, kills=kills, runs=rounds, ended_differently=0)
