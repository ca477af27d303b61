"""Kills workers and the driver of a study on Ray at random, and compares its records with those of a quiet local run.

python benchmarks/faults.py --worker_kills=50 --driver_kills=10 --output=benchmarks/results/cluster/faults.json
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

from records import Records, new_record, write_json

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
# The last bits of a sum depend on the number of threads.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
CURES = 20  # How often the command is given again, at most, where units failed since their workers died too often.


def start(folder, *arguments):
    command = [sys.executable, HERE / "cifar.py", "--preset=smoke", f"--output_dir={folder}", *arguments]
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers(units):
    """The processes of Ray that do one of these units now. Ray calls them by the name of their task."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes().split(b"\0")[0].decode()
        except OSError:  # It has ended.
            continue
        if name.startswith("ray::") and name.removeprefix("ray::") in units:  # Ray has others, for itself.
            found.append(int(path.parent.name))
    return found


def metrics_of(folder):
    """What was measured, without the times, by the name of the unit."""
    return {name: _without_times(record["metrics"]) for name, record in Records(folder).units.items()}


def _without_times(value):
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if "seconds" not in name}
    return value


def disturbed_run(folder, units, rng, worker_kills, driver_kills):
    """Runs the study on Ray under kills, until it is done; returns what happened."""
    events = ["worker"] * worker_kills + ["driver"] * driver_kills
    rng.shuffle(events)
    killed, statuses = {"worker": 0, "driver": 0}, []
    driver = start(folder, "--engine=ray")
    for event in events:
        end = time.monotonic() + rng.uniform(2, 30)
        while time.monotonic() < end or (event == "worker" and not workers(units)):
            if driver.poll() is not None:
                break
            time.sleep(0.2)
        if driver.poll() == 0:  # All is done: no more to kill.
            break
        if driver.poll() is not None:
            statuses.append(driver.returncode)
            driver = start(folder, "--engine=ray")
            continue
        victims = workers(units)
        if event == "driver":
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = start(folder, "--engine=ray")
        elif victims:
            os.kill(rng.choice(victims), signal.SIGKILL)
        killed[event] += event == "driver" or bool(victims)
    for _ in range(CURES):
        statuses.append(driver.wait())
        if statuses[-1] == 0:
            break
        driver = start(folder, "--engine=ray")
    return {"killed": killed, "statuses": statuses}


def main(_):
    rng, begin = random.Random(FLAGS.seed), time.monotonic()
    record = new_record(types.SimpleNamespace(seed=FLAGS.seed))
    with tempfile.TemporaryDirectory() as root:
        quiet = f"{root}/quiet"
        assert start(quiet).wait() == 0
        expected, rounds = metrics_of(quiet), []
        left = {"worker": FLAGS.worker_kills, "driver": FLAGS.driver_kills}
        while any(count > 0 for count in left.values()):
            folder = f"{root}/disturbed_{len(rounds)}"
            happened = disturbed_run(folder, expected, rng, max(left["worker"], 0), max(left["driver"], 0))
            found = metrics_of(folder)
            differing = sorted(name for name in expected if found.get(name) != expected[name])
            rounds.append({**happened, "units": len(found), "differing": differing})
            left = {kind: count - happened["killed"][kind] for kind, count in left.items()}
            print(rounds[-1], flush=True)
    record |= {"units": len(expected), "rounds": rounds}
    record["killed"] = {kind: sum(r["killed"][kind] for r in rounds) for kind in ("worker", "driver")}
    record["wall_seconds"] = round(time.monotonic() - begin)
    os.makedirs(os.path.dirname(FLAGS.output) or ".", exist_ok=True)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_integer("worker_kills", 50, "Workers to kill.", lower_bound=0)
    flags.DEFINE_integer("driver_kills", 10, "Drivers to kill.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the kills.")
    flags.DEFINE_string("output", "results/faults.json", "File of the record.")
    app.run(main)
