"""The tables of fine-tuning: for each task and way, all methods at their best settings, beside one network."""

import json

import numpy as np

from inputs import pictures
from report.baselines import deviation, mean
from report.comparisons import estimate
from study.search import finished

TASKS = {
    "trec": "TREC, kinds of questions",
    "trec500": "TREC, kinds of questions",
    "subj": "Subj, subjective or objective",
    "sst2": "SST-2, opinions of films",
    "mr": "MR, opinions of films",
    "cr": "CR, opinions of products",
    "cifar1000": "CIFAR-10 (JPEG)",
    "cifar5000": "CIFAR-10 (JPEG)",
    "fashion1000": "Fashion-MNIST (subset)",
}
WAYS = {"head": "the head alone", "lora": "LoRA of rank 4 with the head", "all": "all weights"}


def records(folder):
    """`{(task, way): {method: (its sizes, {seed: metrics})}}` of all that is done."""
    found = {}
    for path in sorted((folder / "finetuning").glob("*.json")):
        record = json.loads(path.read_text())
        for method, (_, runs) in finished(record).items():
            found.setdefault((record["task"], record["way"]), {})[method] = (record["sizes"], runs)
    return found


SHOWN = ("EMA", "FGE", "SSE", "uniform soup of 3", "deep ensemble of 3")


def changes(methods, method):
    """The paired differences to one network in calibrated NLL, with their interval."""
    (_, runs), (_, one) = methods[method], methods["one network"]
    return estimate([runs[seed]["calibrated_nll"] - one[seed]["calibrated_nll"] for seed in runs])


def overview(folder):
    """One row for each task and way: one network, and what some methods change."""
    columns = ["task", "one network: error %, calibrated NLL", *(f"{method}, minus that" for method in SHOWN)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for (task, way), methods in records(folder).items():
        if set(SHOWN) <= set(methods):
            sizes, one = methods["one network"]
            cells = [f"{_name(task, sizes)}; {WAYS[way]}"]
            cells += [f"{100 * mean(one, 'error'):.1f}, {mean(one, 'calibrated_nll'):.3f}"]
            cells += [changes(methods, method).text(1, 3) for method in SHOWN]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_method(folder):
    """A row for each method: what it costs, and on how many tasks it surely changes the calibrated NLL, by how much."""
    columns = ["the head alone", "trainings", "lower on", "higher on", "of tasks", "change of calibrated NLL, nat"]
    lines, found = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"], {}
    for (_, way), methods in records(folder).items():
        if way == "head" and set(SHOWN) <= set(methods):
            for method in set(methods) - {"one network"}:
                found.setdefault(method, []).append((changes(methods, method), methods[method][1]))
    for method, of_tasks in sorted(found.items(), key=lambda item: np.mean([change.value for change, _ in item[1]])):
        values = [change.value for change, _ in of_tasks]
        cells = [method, f"{mean(of_tasks[0][1], 'trainings'):.0f}"]
        cells += [
            str(sum(change.high < 0 for change, _ in of_tasks)),
            str(sum(change.low > 0 for change, _ in of_tasks)),
        ]
        cells += [str(len(of_tasks)), f"{min(values):+.3f} to {max(values):+.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(task, sizes):
    return f"{TASKS[task]}, {sizes['train']:,} {_kind(task)}"


def _kind(task):
    return "images" if task in pictures.TASKS else "sentences"


def table(folder):
    """A table for each task and way; methods by their calibrated NLL, differences over paired seeds."""
    return "\n\n".join(_table(*key, methods) for key, methods in records(folder).items() if "one network" in methods)


def _table(task, way, methods):
    sizes, _ = methods["one network"]
    columns = [f"{_name(task, sizes)}; {WAYS[way]}", "trainings", "members", "error %", "NLL, calibrated"]
    columns += ["minus one network", "ECE %", "AURC", "set size", f"AUROC of foreign {_kind(task)}"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method, (_, runs) in sorted(methods.items(), key=lambda item: mean(item[1][1], "calibrated_nll")):
        cells = [
            method,
            f"{mean(runs, 'trainings'):.0f}",
            f"{mean(runs, 'members'):.0f}",
            f"{100 * mean(runs, 'error'):.2f} ± {100 * deviation(runs, 'error'):.2f}",
            f"{mean(runs, 'calibrated_nll'):.4f}",
            "" if method == "one network" else changes(methods, method).text(1, 4),
            f"{100 * mean(runs, 'calibrated_ece'):.1f}",
            f"{mean(runs, 'aurc'):.4f}",
            f"{mean(runs, 'set_size'):.2f}",
            f"{mean(runs, 'calibrated_ood_auroc_entropy'):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
