"""Studies on many devices and runs that last: the simulation and its test, faults, and what grows."""

import json


def simulation(folder):
    """Times of the whole Table 1 on many GPUs, as simulated."""
    record = json.loads((folder / "cluster" / "simulation.json").read_text())
    columns = ["GPUs", "hours", "dollars", "hours, stragglers", "hours, on spot GPUs too", "dollars", "preemptions"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for gpus, values in record["gpus"].items():
        quiet, slow, spot = (values[name] for name in ("quiet", "stragglers", "stragglers, spot"))
        hours = [f"{each['minutes'] / 60:.1f}" for each in (quiet, slow, spot)]
        dollars = [f"{each['dollars']:.0f}" for each in (quiet, spot)]
        cells = [gpus, hours[0], dollars[0], *hours[1:], dollars[1], f"{spot['preemptions']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    about = (
        "A simulation ([record](../benchmarks/results/cluster/simulation.json), "
        f"`benchmarks/evidence/simulation.py`): {record['units']} units, {record['gpu_minutes'] / 60:.1f} GPU hours; "
        f"the longest chain of them takes {record['critical_path_minutes'] / 60:.1f} hours, which no number of GPUs "
        "makes shorter."
    )
    assumptions = " ".join(record["assumptions"].split())
    return "\n".join([about, "", *lines, "", f"Assumptions: {assumptions}", "", _predicted(folder)])


def _predicted(folder):
    """How far the simulation is off for a small study on this machine."""
    record = json.loads((folder / "cluster" / "predicted.json").read_text())
    turns = record["turns"]
    ratios = ", ".join(f"{turn['ratio']:.2f}" for turn in turns)
    alone = sorted(turn["one_worker"] for turn in turns)
    return (
        "Is it right? For the smoke study, it predicts from the run of one worker how long two take, with the start "
        f"of the programs. In {len(turns)} turns two workers took {ratios} of that. But two thirds of it are starts, "
        f"which were measured and not predicted, and one worker took {alone[0]:.0f} to {alone[-1]:.0f} s: a study of "
        "that size cannot tell ([record](../benchmarks/results/cluster/predicted.json), "
        "`benchmarks/evidence/predicted.py`)."
    )


def long_runs(folder):
    """What grows with snapshots, fits and preemptions: at a tenth of them, and at the end; a table for each backend."""
    found = []
    for path in sorted((folder / "long_runs").glob("*.json")):
        record = json.loads(path.read_text())
        run, fits, week = (record["found"][name] for name in ("snapshots", "fits", "preemptions"))
        first, last = run["milliseconds_of_one"]
        rows = [(f"a snapshot of {run['snapshots']:,} and two steps, ms", f"{first:.0f}", f"{last:.0f}")]
        held = {f"{run['snapshots']:,} snapshots": run["held"], f"{fits['fits']} fits without FGE": fits["plain"]}
        held |= {f"{fits['fits']} fits with FGE": fits["FGE"], f"{week['preemptions']} preemptions": week["held"]}
        for name, states in held.items():
            cells = [f"{s['megabytes']:.0f} MB, {s['files']} files, {s['threads']} threads" for s in states]
            rows.append((f"process, {name}", *cells))
        bits = "the same bits as" if week["same_bits"] else "OTHER BITS THAN"
        found.append(
            "\n".join(
                [
                    f"| {record['backend']} | at a tenth | at the end |",
                    "|---|---|---|",
                    *(f"| {' | '.join(row)} |" for row in rows),
                    "",
                    f"The manifest has {run['bytes_of_the_manifest_per_snapshot']:.0f} bytes for each snapshot. The "
                    f"{week['members']} members of the run that was preempted have {bits} those of a quiet one.",
                ]
            )
        )
    return "\n\n".join(found)


def faults(folder):
    """What kills of workers and drivers, a full store and a failing unit did to a study on Ray."""
    record = json.loads((folder / "cluster" / "faults.json").read_text())
    differing, killed = sum(len(r["differing"]) for r in record["rounds"]), record["killed"]
    store, failing = record["full_store"], record["failing_unit"]
    return (
        f"On Ray with {record['cpus']} CPUs, {killed['worker']} workers and {killed['driver']} drivers were killed at "
        f"random moments of a study (preset `smoke`, {record['units']} units; runs: {len(record['rounds'])}). Of the "
        f"records, {differing} differ from those of a quiet local run, apart from times. With "
        f"{store['kept_megabytes']:.0f} MB of another program in Ray's store of {store['store_megabytes']:.0f} MB, "
        f"{len(store['differing'])} differ. With a damaged state in the folder of {', '.join(failing['failures'])}, "
        f"{len(failing['missing'])} of the units are missing ({', '.join(failing['missing'])}), the exit status is "
        f"{failing['status']}, and the others are as in the quiet run "
        "([record](../benchmarks/results/cluster/faults.json), `benchmarks/evidence/faults.py`)."
    )


def nodes(folder):
    """What the loss of a node, and of the head, did to a study on a Ray cluster; and what a unit costs."""
    record = json.loads((folder / "cluster" / "nodes.json").read_text())
    node, head, short = record["node"], record["head"], record["short"]
    return (
        "On a cluster of three Ray nodes on this machine, one was killed in the middle of a study of "
        f"{record['units']} units: the program ended with status {node['status']}, and {len(node['differing'])} of the "
        f"records differ. Then the head was killed, when {head['done_before']} units were done: the program ended "
        f"after {head['seconds_until_the_driver_ended']:.0f} s with status {head['statuses'][0]}, and the same "
        f"command on a new cluster with status {head['statuses'][1]}; {len(head['differing'])} of the records differ. "
        f"Of {short['units']} units of {short['of_a_unit']:.1f} s on {record['cpus']} CPUs, each took "
        f"{short['beside_a_unit']:.2f} s beside its own time, and the first began after "
        f"{short['until_the_first_unit']:.0f} s ([record](../benchmarks/results/cluster/nodes.json), "
        "`benchmarks/evidence/nodes.py`)."
    )
