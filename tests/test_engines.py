"""Who does the units of a study: failures, workers that are killed, Ray, SLURM, and how far it is."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from evidence import nodes
from evidence.faults import metrics_of
from study import engines, presets, progress, status, sweep, units
from study.records import Records

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
ENDPOINT = ["--preset=smoke", "--experiment=endpoint"]


def study_in(folder):
    settings = types.SimpleNamespace(output_dir=str(folder), debug=False)
    return units.Study(settings, None, Records(folder, {}), progress.ProgressBars())


def work(study, *key):
    return {"value": 1.0}


def fail(study, *key):
    raise ValueError("this one never works")


def test_a_unit_that_fails_stops_only_what_needs_it(tmp_path):
    study = study_in(tmp_path)
    bad, good = units.Unit("network", (0,), fail), units.Unit("network", (1,), work)
    curve, path = units.Unit("curve", (0,), work, needs=(bad, good)), units.Unit("path", (1,), work, needs=(good,))
    with pytest.raises(units.UnitsFailed, match=r"1 of the units failed, all others are done\. network 0: this one"):
        units.run(study, [curve, path])
    assert set(study.records.units) == {"network 1", "path 1"}
    assert Records(tmp_path, {}).failures() == {"network 0": "this one never works"}
    now = status.status(study, [curve, path])
    assert now["failed"] == {"network 0": "this one never works"} and now["running"] == []
    assert now["kinds"]["network"] == {"done": 1, "running": 0, "waiting": 0, "failed": 1}
    assert now["kinds"]["curve"] == {"done": 0, "running": 0, "waiting": 1, "failed": 0}
    # The next run tries it again, and then nothing is left of the failure.
    units.run(study, [units.Unit("network", (0,), work), units.Unit("curve", (0,), work, needs=(good,))])
    assert len(study.records.units) == 4 and not study.records.failures()


def test_what_the_machine_lacks_ends_at_once(tmp_path):
    def full(study, *key):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        units.run(study_in(tmp_path), [units.Unit("network", (0,), full), units.Unit("network", (1,), fail)])
    assert not Records(tmp_path, {}).failures()


def test_who_does_what(tmp_path):
    study = study_in(tmp_path)
    unit = units.Unit("network", (0,), work)
    with study.locked(unit.name):
        ((name, where, seconds),) = status.status(study, [unit])["running"]
        assert name == "network 0" and where.endswith(f", process {os.getpid()}") and 0 <= seconds < 60
        status.Board(study, [unit]).look()
    page = (tmp_path / "status.html").read_text()
    assert 'http-equiv="refresh"' in page and "network 0: " in page
    assert study.holder(unit.name) is None


def test_a_unit_of_hundreds_of_runs_has_a_lock_of_its_own(tmp_path):
    study = study_in(tmp_path)
    several = [units.Unit("paired", ("fge", *range(first, 250)), work) for first in (0, 1)]
    with study.locked(several[0].name), study.locked(several[1].name, wait=False) as is_free:
        assert is_free
    units.run(study, several)
    assert len(study.records.units) == 2


class Process(engines._Worker):
    """A worker that is another program."""

    def __init__(self, code, log, number=0, count=1):
        super().__init__(["-c", code], log, number, count)


def ended(worker):
    end = time.monotonic() + 60
    while worker.runs_or_is_started_again():
        assert time.monotonic() < end
        time.sleep(0.05)
    return worker._process.poll()


def test_a_worker_that_was_killed_is_started_again_and_one_that_failed_is_not(tmp_path):
    first_kills_itself = (
        f"import os, pathlib; count = pathlib.Path({str(tmp_path / 'count')!r}); count.open('a').write('x');"
        "len(count.read_text()) < 3 and os.kill(os.getpid(), 9)"
    )
    assert ended(Process(first_kills_itself, tmp_path / "log")) == 0
    assert (tmp_path / "count").read_text() == "xxx"
    assert ended(Process("raise SystemExit(3)", tmp_path / "log")) == 3
    with pytest.raises(RuntimeError, match=r"ended 6 times, with status 1\. .*log says why"):
        ended(Process("print('why'); raise SystemExit(1)", tmp_path / "log"))
    assert (tmp_path / "log").read_text().count("why") == 6


def test_gpus_are_shared_out_and_no_worker_takes_all_memory_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    names = ["CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE", "TF_FORCE_GPU_ALLOW_GROWTH"]
    for name in names[1:]:
        monkeypatch.delenv(name, raising=False)
    code = f"import os; print(*[os.environ.get(name) for name in {names}])"
    for number, count, expected in ((1, 2, "7 None None"), (2, 3, "4 false true")):
        log = tmp_path / f"log_{count}"
        assert ended(Process(code, log, number, count)) == 0
        assert log.read_text().split("\n")[0] == expected


def benchmark(*arguments, **options):
    command = [sys.executable, "benchmarks/cifar.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


def on_one_core():
    """The last bits of a sum depend on the number of threads, so of cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process measured, of three networks."""
    folder = tmp_path_factory.mktemp("alone")
    result = benchmark(*ENDPOINT, f"--output_dir={folder}", preexec_fn=on_one_core)
    assert result.returncode == 0, result.stderr
    return metrics_of(folder)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are shared out on Linux only")
def test_two_workers_leave_the_records_of_one(alone, tmp_path):
    result = benchmark(*ENDPOINT, f"--output_dir={tmp_path}", "--workers=2")
    assert result.returncode == 0, result.stderr
    assert sorted(metrics_of(tmp_path)) == ["ind 0", "ind 1", "ind 2"]
    if os.cpu_count() == 2:
        assert metrics_of(tmp_path) == alone
    assert {path.name for path in (tmp_path / "workers").iterdir()} == {"worker_0.log", "worker_1.log"}
    result = benchmark("--preset=smoke", f"--output_dir={tmp_path}", "--experiment=status")
    assert result.returncode == 0 and "curve" in result.stdout and "min" in result.stdout


@pytest.mark.slow
def test_a_study_on_ray_leaves_the_records_of_one_process(alone, tmp_path):
    pytest.importorskip("ray")
    result = benchmark(*ENDPOINT, f"--output_dir={tmp_path}", "--engine=ray", preexec_fn=on_one_core)
    assert result.returncode == 0, result.stderr
    assert metrics_of(tmp_path) == alone


SCONTROL = """#!/bin/sh
echo "$@" >> requeued
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SLURM runs on POSIX systems")
def test_a_worker_of_slurm_is_queued_again_and_goes_on(alone, tmp_path):
    """With the scheduler replaced: it signals a worker, kills one, and starts what is to be queued again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(SCONTROL.replace("requeued", str(tmp_path / "requeued")))
    scontrol.chmod(0o755)
    environment = {
        **os.environ,
        **{"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "PYTHON": sys.executable, "SLURM_SUBMIT_DIR": str(ROOT)},
        **{"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"},
    }
    folder = tmp_path / "study"
    command = ["bash", ROOT / "benchmarks/slurm.sh", *ENDPOINT, f"--output_dir={folder}"]

    def start():
        return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=on_one_core)

    def begun():
        return any(folder.glob("checkpoints/*/*"))

    worker = start()
    while not begun():
        time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0 and (tmp_path / "requeued").read_text() == "requeue 7_1\n"
    assert len(Records(folder).units) < 3
    worker = start()
    time.sleep(8)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    both = [start(), start()]
    assert [each.wait(300) for each in both] == [0, 0]
    assert metrics_of(folder) == alone


def test_a_file_of_settings(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("flags: {epochs: 4, learning_rate: [0.1, 0.2]}\nsettings: [{experiment: ind}, {experiment: fge}]\n")
    assert sweep.read_sweep(file) == {
        f"learning_rate={rate},experiment={kind}": {"epochs": 4, "learning_rate": rate, "experiment": kind}
        for kind in ("ind", "fge")
        for rate in (0.1, 0.2)
    }
    file.write_text("flags: {learning_rate: [0.1, 0.2, 0.3, 0.4]}\nrandom: 2\nseed: 1\n")
    drawn = sweep.read_sweep(file)
    assert len(drawn) == 2 and drawn == sweep.read_sweep(file)
    for text, message in (
        ("[1, 2]", "cannot be read: Expected `object`, got `array`"),
        ("{a", "cannot be read"),
        ("{}", "must hold flags, random, seed, settings. Received: nothing"),
        ("{flag: {}}", "must hold flags, random, seed, settings. Received: flag"),
        ("{flags: [epochs]}", r"Expected `object`, got `array` - at `\$.flags`"),
        ("{settings: {epochs: 1}}", r"Expected `array`, got `object` - at `\$.settings`"),
        ("{flags: {epochs: {a: 1}}}", r"got `object` - at `\$.flags\[...\]`"),
        ("{flags: {epochs: 1}, random: 0}", r"Expected `int` >= 1 - at `\$.random`"),
        ("{flags: {epochs: []}}", "has no setting: a list of values is empty"),
        ("{flags: {sweep: settings.yaml}}", "sets sweep, which the sweep itself does"),
        ("{settings: [{epochs: 1}, {output_dir: x}]}", "sets output_dir, which the sweep itself does"),
        ("{flags: {data_dir: [a/b, a_b]}}", "has two settings whose folder would be data_dir=a_b"),
        ("{flags: {epochs: 1}}\0", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            sweep.read_sweep(file)
        assert "\n" not in str(error.value)
    committed = sweep.read_sweep(ROOT / "benchmarks/sweeps/small.json")
    preset = {name: value for name, value in presets.PRESETS["small"].items() if name not in ("runs", "seed")}
    as_preset = [setting for setting in committed.values() if preset.items() <= setting.items()]
    methods = [setting["experiment"] for setting in committed.values()]
    assert {method: methods.count(method) for method in methods} == {"ind": 8, "sse": 8, "fge": 8}  # As many of each.
    assert {setting["experiment"] for setting in as_preset} == set(methods)  # Each with the preset, too.
    assert max(map(len, committed)) < 200  # It is the name of a folder.


@pytest.mark.slow
def test_a_sweep_ends_with_a_table_and_the_best_command(tmp_path):
    result = benchmark("--sweep=benchmarks/sweeps/smoke.json", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    values = {}
    for rate in ("0.02", "0.1"):
        records = Records(tmp_path / f"learning_rate={rate}")
        assert records.configuration["learning_rate"] == float(rate)
        values[rate] = [record["metrics"]["validation"]["calibrated_nll"] for record in records.of("ind")]
        assert len(values[rate]) == 3
    best = min(values, key=lambda rate: sum(values[rate]))
    command = result.stdout.rpartition("The best: ")[2].split()
    assert f"--learning_rate={best}" in command and f"--output_dir={tmp_path}/learning_rate={best}" in command


@pytest.mark.slow
def test_a_study_outlives_a_node_and_the_head(alone, tmp_path):
    pytest.importorskip("ray")
    found = nodes.run_without_a_node(str(tmp_path / "node"), alone, *ENDPOINT[1:])
    assert found == {"status": 0, "differing": []}
    found = nodes.run_with_another_head(str(tmp_path / "head"), alone, *ENDPOINT[1:])
    assert found["statuses"][1] == 0 and found["differing"] == []  # The other nodes may have done the rest before.


@pytest.mark.slow
def test_what_ray_takes_beside_short_units(tmp_path):
    pytest.importorskip("ray")
    found = nodes.seconds_beside_short_units(str(tmp_path), runs=2, epochs=2)
    assert found["units"] == 4 and found["of_a_unit"] > 0
