"""A study on a Ray cluster of three nodes on this machine, one of which dies; a head that dies; what a unit costs.

    cd benchmarks && python -m evidence.nodes --output=results/cluster/nodes.json

The nodes are processes of `ray.cluster_utils`, killed with all that they do. What is recorded is compared with a quiet
local run of the same study. One of many short units comes first and says how long Ray takes beside them: nothing else
should run. The record is written after each part, and the same command goes on.
"""

import datetime
import os
import tempfile
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

from evidence.faults import differing, metrics_of, start
from study.progress import console
from study.records import Records, opened_record, write_json

FLAGS = flags.FLAGS
# Short units, two for each seed; what they measure means nothing.
SHORT = ["--dataset=digits", "--network=small_cnn", "--width=4", "--plane_points=0", "--experiment=paired"]


def new_cluster(nodes):
    """A cluster whose nodes have one CPU each, as many as there are nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return cluster


def on_ray(folder, cluster, arguments):
    """The driver of a study on the cluster."""
    return start(folder, "--engine=ray", f"--ray_address={cluster.address}", *arguments)


def wait_for(folder, driver, units):
    """Waits until so many units are recorded."""
    while driver.poll() is None:
        if os.path.exists(os.path.join(folder, "records.jsonl")) and len(metrics_of(folder)) >= units:
            return
        time.sleep(0.2)
    raise RuntimeError(f"The study ended with status {driver.returncode}, before {units} units were done.")


def run_without_a_node(folder, expected, *arguments):
    """A study during which one of three nodes dies."""
    cluster = new_cluster(3)
    try:
        driver = on_ray(folder, cluster, arguments)
        wait_for(folder, driver, 1 + len(expected) // 4)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        status = driver.wait()
    finally:
        cluster.shutdown()
    return {"status": status, "differing": differing(folder, expected)}


def run_with_another_head(folder, expected, *arguments):
    """A study whose head node dies, and another cluster on which the same command goes on."""
    cluster = new_cluster(3)
    try:
        driver = on_ray(folder, cluster, arguments)
        wait_for(folder, driver, 1 + len(expected) // 4)
        done = len(metrics_of(folder))
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        begin = time.monotonic()
        status, seconds = driver.wait(), time.monotonic() - begin
    finally:
        cluster.shutdown()
    cluster = new_cluster(2)
    try:
        statuses = [status, on_ray(folder, cluster, arguments).wait()]
    finally:
        cluster.shutdown()
    return {
        "statuses": statuses,
        "seconds_until_the_driver_ended": seconds,
        "done_before": done,
        "differing": differing(folder, expected),
    }


def seconds_beside_short_units(folder, runs, epochs):
    """What each unit takes beside its own time, on all CPUs: from the begin of the first to the end of the last."""
    settings = [*SHORT, f"--runs={runs}", f"--epochs={epochs}", f"--fge_start_epoch={epochs // 2}"]
    begin = time.time()
    if status := start(folder, "--engine=ray", settings=settings).wait():
        raise RuntimeError(f"The study of short units ended with status {status}.")
    units = [record for record in Records(folder).units.values() if record["experiment"] != "paired"]
    own = [record["wall_seconds"] for record in units]
    ends = [datetime.datetime.fromisoformat(record["finished"]).timestamp() for record in units]
    span = max(ends) - min(end - each for end, each in zip(ends, own))
    cpus = os.cpu_count()
    return {
        "units": len(units),
        "until_the_first_unit": min(end - each for end, each in zip(ends, own)) - begin,
        "of_a_unit": sum(own) / len(own),
        "beside_a_unit": (cpus * span - sum(own)) / len(units),
    }


def main(_):
    record = opened_record(FLAGS.output, types.SimpleNamespace(seed=0))
    with tempfile.TemporaryDirectory() as root:
        if "short" not in record:
            record["short"] = seconds_beside_short_units(f"{root}/short", FLAGS.runs, FLAGS.epochs)
            write_json(record, FLAGS.output)
            console.print(record["short"])
        if start(f"{root}/quiet").wait():
            raise RuntimeError("The study that all are compared with has failed.")
        expected = metrics_of(f"{root}/quiet")
        record["units"] = len(expected)
        for name, run in (("node", run_without_a_node), ("head", run_with_another_head)):
            if name not in record:
                record[name] = run(f"{root}/{name}", expected)
                write_json(record, FLAGS.output)
                console.print(record[name])


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/cluster/nodes.json", "Record to write.")
    flags.DEFINE_integer("runs", 250, "Seeds of the short units.", lower_bound=1)
    flags.DEFINE_integer("epochs", 8, "Epochs of the short units: more if a unit takes less than a second.")
    app.run(main)
