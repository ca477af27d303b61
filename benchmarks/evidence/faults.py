"""Faults of a study on Ray: what is recorded is compared with the records of a quiet local run.

Workers and the driver are killed at random; Ray's store of objects is full; a unit always fails.

    cd benchmarks && python -m evidence.faults --worker_kills=50 --driver_kills=10 --output=results/cluster/faults.json
"""

import contextlib
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

import numpy as np
from absl import app, flags

from study.records import Records, new_record, write_json

FLAGS = flags.FLAGS
BENCHMARKS = pathlib.Path(__file__).parents[1]
# The last bits of a sum depend on the number of threads.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
CURES = 20  # How often the command is given again, at most, where units failed since their workers died too often.
STORE = 100 * 2**20  # Bytes of a store that is filled.
FAILING = "sse 1"  # Nothing but its pools needs it.


def start(folder, *arguments, settings=("--preset=smoke",)):
    command = [sys.executable, BENCHMARKS / "cifar.py", *settings, f"--output_dir={folder}", *arguments]
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def differing(folder, expected):
    """The units that are missing, or were measured otherwise than expected."""
    found = metrics_of(folder)
    return sorted(name for name in expected if found.get(name) != expected[name])


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
        end = time.monotonic() + rng.uniform(1, 12)
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


def run_with_a_full_store(folder, expected):
    """A study on a cluster whose store of objects another program has filled, twice over or until Ray takes no more."""
    import ray

    ray.init(num_cpus=os.cpu_count(), object_store_memory=STORE, include_dashboard=False)
    block, kept = np.ones(2**18), []  # 2 MiB.
    try:
        with contextlib.suppress(ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError):
            while len(kept) * block.nbytes < 2 * STORE:
                kept.append(ray.put(block))
        status = start(folder, "--engine=ray", f"--ray_address={ray.get_runtime_context().gcs_address}").wait()
    finally:
        ray.shutdown()
    return {
        "store_megabytes": STORE / 2**20,
        "kept_megabytes": len(kept) * block.nbytes / 2**20,
        "status": status,
        "differing": differing(folder, expected),
    }


def run_with_a_failing_unit(folder, expected):
    """A study one of whose units finds a damaged state in its folder, each time that it is tried."""
    state = pathlib.Path(folder, "checkpoints", FAILING.replace(" ", "_"), "state.npz")
    state.parent.mkdir(parents=True)
    state.write_bytes(b"damaged")
    status = start(folder, "--engine=ray").wait()
    return {"status": status, "failures": Records(folder).failures(), "missing": differing(folder, expected)}


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
            rounds.append({**happened, "units": len(metrics_of(folder)), "differing": differing(folder, expected)})
            left = {kind: count - happened["killed"][kind] for kind, count in left.items()}
            print(rounds[-1], flush=True)
        record["full_store"] = run_with_a_full_store(f"{root}/full_store", expected)
        record["failing_unit"] = run_with_a_failing_unit(f"{root}/failing_unit", expected)
        print(record["full_store"], record["failing_unit"], sep="\n", flush=True)
    record |= {"units": len(expected), "rounds": rounds}
    record["killed"] = {kind: sum(r["killed"][kind] for r in rounds) for kind in ("worker", "driver")}
    record["wall_seconds"] = round(time.monotonic() - begin)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_integer("worker_kills", 50, "Workers to kill.", lower_bound=0)
    flags.DEFINE_integer("driver_kills", 10, "Drivers to kill.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the kills.")
    flags.DEFINE_string("output", "../results/faults.json", "File of the record.")
    app.run(main)
