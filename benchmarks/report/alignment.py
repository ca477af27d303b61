"""The tables of alignment: barriers against the width, and the networks with the mean weights of aligned ones."""

import json

import numpy as np

from study.records import name_of_data


def barriers(folder):
    """Barriers of all kinds of paths against the width, on both data sets."""
    lines = []
    for file in ("alignment_fashion", "alignment_cifar"):
        record = json.loads((folder / f"{file}.json").read_text())
        pairs = record["pairs"]
        kinds = list(next(iter(pairs.values())))
        lines += [
            f"| {name_of_data(record)}, barrier in nat | " + " | ".join(kinds) + " |",
            "|---" * (len(kinds) + 1) + "|",
        ]
        for width in sorted({int(key.split()[0]) for key in pairs}):
            values = {
                k: [pair[k]["train_loss_barrier"] for key, pair in pairs.items() if key.startswith(f"{width} ")]
                for k in kinds
            }
            cells = [f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in values.values()]
            lines.append(f"| width {width} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).strip()


def means(folder):
    """Test errors of the network with the mean weights of k networks, by width; mean and deviation over the groups."""
    groups, lines = json.loads((folder / "means.json").read_text())["groups"], []
    widths = sorted({int(key.split()[0]) for key in groups})
    for width in widths:
        found = [group for key, group in groups.items() if key.startswith(f"{width} ")]
        sizes = list(found[0]["ensemble"])
        title = f"test error %, width {width}, {len(found)} groups"
        lines += [f"| {title} | {' | '.join(f'{k} networks' for k in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
        for kind, of in found[0].items():
            errors = {k: 100 * np.array([group[kind][k]["error"] for group in found]) for k in of}
            spread = {k: f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "" for k, values in errors.items()}
            texts = {k: f"{np.mean(values):.1f}{spread[k]}" for k, values in errors.items()}
            name = kind if len(of) > 1 else f"{kind}: {texts['1']}"
            lines.append(f"| {name} | {' | '.join(texts.get(k, '') for k in sizes)} |")
        lines.append("")
    return "\n".join(lines).strip()
