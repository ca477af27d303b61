"""The table of methods that were tuned alike, and why they win: error of members against their disagreement."""

import ast
import json

import numpy as np

from keras_fge.core.pages import COLORS, GREY
from report.comparisons import estimate
from study.look import new_figure, styled
from study.search import finished

COMBINED = ("FGE", "FGE with AdamW", "MC dropout", "four networks of half the width")
MARKERS = dict(zip(COMBINED, "osD^"))


def records(folder):
    """`{method: (best setting, {seed: metrics on test images}, settings tried, backend)}` of all that is done."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        for method, (setting, runs) in finished(record).items():
            found[method] = (setting, runs, len(record["tuning"]), record["backend"])
    return found


def table(folder):
    """A row for each method at its best setting, the least calibrated NLL first; differences are over paired seeds.

    Of another backend, the weights of a seed begin elsewhere, and there are no pairs.
    """
    found = records(folder)
    _, ordinary, _, own_backend = found["one network"]
    columns = ["", "passes", "test error %", "minus one network, points", "NLL, calibrated", "minus one network, nat"]
    columns += ["AUROC of errors", "tried", "best"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method, (setting, runs, tried, backend) in sorted(
        found.items(), key=lambda item: mean(item[1][1], "calibrated_nll")
    ):
        has_pairs = method != "one network" and backend == own_backend
        points, nats = (
            estimate([runs[seed][metric] - ordinary[seed][metric] for seed in runs]).text(*form) if has_pairs else ""
            for metric, form in (("error", (100, 2)), ("calibrated_nll", (1, 4)))
        )
        cells = [
            method,
            f"{next(iter(runs.values()))['passes']:g}",
            f"{100 * mean(runs, 'error'):.2f} ± {100 * deviation(runs, 'error'):.2f}",
            points,
            f"{mean(runs, 'calibrated_nll'):.4f} ± {deviation(runs, 'calibrated_nll'):.4f}",
            nats,
            f"{mean(runs, 'auroc_of_errors'):.3f}",
            str(tried),
            ", ".join(f"{name} {value:g}" for name, value in ast.literal_eval(setting).items()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def crossed(folder):
    """One network, FGE and SSE at the rates and weight decays of each other, on validation images, while tuned.

    Each at the best of its own settings, as cycles, that was tried with that rate and decay.
    """
    best, found = set(), {}
    for method in ("one network", "FGE", "SSE"):
        record = json.loads((folder / f"{method.replace(' ', '_')}.json").read_text())
        best.add(common(record["best"][method]))
        for setting, by_seed in record["tuning"].items():
            runs = {seed: run[method] for seed, run in by_seed.items()}
            cell = found.setdefault(common(setting), {})
            cell[method] = min(cell.get(method, runs), runs, key=lambda runs: mean(runs, "calibrated_nll"))
    if len(best) == 1:
        [(rate, decay)] = best
        return (
            f"One network, FGE and SSE found the same rate, {rate:g}, and the same weight decay, {decay:g}: each "
            "already stands at the settings of the others."
        )
    columns = ["rate", "decay", "one network", "FGE", "SSE"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for (rate, decay), runs in sorted(found.items()):
        cells = [f"{rate:g}", f"{decay:g}"]
        for method in columns[2:]:
            error, nll = (mean(runs[method], name) if method in runs else None for name in ("error", "calibrated_nll"))
            cells.append("" if nll is None else f"{100 * error:.1f} %, {nll:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def common(setting):
    """The learning rate and the weight decay of a setting, as the record has it."""
    arguments = ast.literal_eval(setting)
    return arguments["largest" if "rate" not in arguments else "rate"], arguments["decay"]


def mean(runs, metric):
    return float(np.mean([run[metric] for run in runs.values()]))


def deviation(runs, metric):
    return float(np.std([run[metric] for run in runs.values()], ddof=1))


@styled
def draw(folder):
    """Error of members against their disagreement, and the error of members against that of their ensemble."""
    found = records(folder)
    figure = new_figure(4)
    trade, gain = figure.subplots(1, 2)
    for color, method in zip(COLORS, [name for name in COMBINED if name in found]):
        runs = found[method][1].values()
        members, together = ([100 * run[metric] for run in runs] for metric in ("member_error", "error"))
        differ = [100 * run["disagreement"] for run in runs]
        look = {"color": color, "marker": MARKERS[method], "linestyle": "none", "alpha": 0.8}
        trade.plot(differ, members, label=method, **look)
        gain.plot(members, together, **look)
    one = 100 * mean(found["one network"][1], "error")
    for line, label in ((trade.axhline, "one network"), (gain.axhline, None)):
        line(one, color=GREY, linestyle="--", label=label)
    trade.set(xlabel="images on which two members differ (%)", ylabel="test error of a member (%)")
    gain.set(xlabel="test error of a member (%)", ylabel="test error of the ensemble (%)")
    for axes in (trade, gain):
        axes.grid(alpha=0.3)
    figure.legend(*trade.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
