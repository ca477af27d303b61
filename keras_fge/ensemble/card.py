"""The model card of an ensemble: what it is, where it comes from, and how to use it, for people who find its folder."""

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fge.core.keras_internals import has_graph
from keras_fge.core.pages import as_text
from keras_fge.core.tasks import output_names
from keras_fge.ensemble.members import Members

OUTPUTS = {True: "logits", False: "probabilities", None: "values"}


def model_card(members: Members, about: str) -> str:
    """A card in Markdown, with the header by which model hubs know the library.

    Args:
        members: Those of the ensemble.
        about: What stands first.
    """
    network, outputs = members.network, members.outputs
    names = output_names(network) or ["one"]
    given = outputs.from_logits
    each = list(given) if isinstance(given, list | tuple) else [given] * len(names)
    said = ", ".join(f"{name}: {OUTPUTS[kind]}" for name, kind in zip(names, each))
    one = 'ensemble.to_model().save("ensemble.keras")  # One Keras model, which does not need keras-fge.\n'
    parts = [
        "---\nlibrary_name: keras\ntags:\n- ensemble\n- keras-fge\n---",
        f"# Ensemble of {len(members)} members of '{network.name}'",
        about.strip(),
        f"One prediction is the mean of what the members predict. Network: {type(network).__name__} with "
        f"{network.count_params():,} weights; outputs: {said}"
        f"{f', for {outputs.task}' if outputs.task else ''}"
        f"{'' if members.temperature is None else f'; temperature: {members.temperature}'}.",
        "## Members\n\n" + _table(members.snapshots, members.weights),
        "## Use\n\n```python\nimport keras_fge  # pip install keras-fge\n\n"
        'ensemble = keras_fge.Ensemble.load("this folder")\nensemble.predict(x)\n'
        f"{one if has_graph(network) else ''}```",
        "## Versions\n\n" + "\n".join(f"- {name} {version}" for name, version in _versions().items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(members: Sequence[Any], weights: Sequence[float] | None) -> str:
    """A row for each member: its file's place, step, learning rate, share, and what was measured on validation data."""
    rows = [
        {
            "member": index + 1,
            **({"step": member.step} if member.step else {}),
            **({} if member.learning_rate is None else {"learning rate": member.learning_rate}),
            **({} if weights is None else {"share": weights[index]}),
            **member.metrics,
        }
        for index, member in enumerate(members)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[as_text(row[name]) if name in row else "" for name in names] for row in rows]
    note = "\n\nMetrics are of the validation data of the run; those of the ensemble are of the members up to that one."
    has_metrics = any(member.metrics for member in members)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + (note if has_metrics else "")


def _versions():
    try:
        ours = importlib.metadata.version("keras-fge")
    except importlib.metadata.PackageNotFoundError:  # It is used without being installed.
        ours = "unknown"
    versions = {"keras-fge": ours, "keras": keras.__version__, "numpy": np.__version__}
    return {**versions, "backend": keras.backend.backend(), "python": platform.python_version()}
