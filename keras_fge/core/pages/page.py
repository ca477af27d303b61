"""A page with plotly figures, switches and a slider, in one file that opens without a network. It needs plotly."""

import dataclasses
import html
import importlib.resources
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_fge.core.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Panel:
    """A place on the page, with a figure for each option of the switches that it follows.

    Attributes:
        title: What stands above it.
        figures: `{options, joined by " / ": {"data": traces, "layout": ..., "markers": ...}}`, as plotly.js takes them.
            A trace with `"ink": True` has the colour of the text. A marker, made by `marker`, moves with the slider.
        follows: Names of the switches, in the order of the options in the keys. Default: none; the key is "".
    """

    title: str
    figures: dict[str, dict[str, Any]]
    follows: tuple[str, ...] = ()


def marker(style: Mapping[str, Any], **coordinates: Any) -> dict[str, Any]:
    """A marker that the slider moves: the trace `style`, and x, y, z, text for each place of the slider."""
    return {"style": {"showlegend": False, **style}, **{name: list(values) for name, values in coordinates.items()}}


def layout(x: str, y: str) -> dict[str, Any]:
    """The layout of a figure with two axes of these names, and the legend below."""
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "legend": {"orientation": "h", "y": -0.2},
        "margin": {"l": 10, "r": 10, "t": 34, "b": 10},
        "hovermode": "closest",
    }


def write_page(
    path: str | os.PathLike,
    title: str,
    sentences: Sequence[str],
    panels: Sequence[Panel],
    switches: Mapping[str, Sequence[str]],
    slider: tuple[str, Sequence[str]],
) -> None:
    """Writes the page, atomically.

    Args:
        path: File to write, such as "curve.html".
        title: What stands on top.
        sentences: What the panels mean. The first two stand above the panels, the first one in bold; the reader unfolds
            the others.
        panels: The panels.
        switches: Names and options. One with a single option is not shown.
        slider: Label, and a text for each of its places.

    Raises:
        ImportError: if plotly is not installed.
        OSError: if `path` cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("A page needs plotly: pip install 'keras-fge[explorer]', or pip install plotly") from error
    content: dict[str, Any] = {"panels": [dataclasses.asdict(panel) for panel in panels]}
    content["texts"] = list(slider[1])
    controls = []
    for name, options in switches.items():
        chosen = "".join(f"<option>{html.escape(option)}</option>" for option in options)
        hidden = " hidden" if len(options) < 2 else ""
        name = html.escape(name)
        controls.append(f'<label{hidden}>{name} <select name="{name}">{chosen}</select></label>')
    hidden = " hidden" if len(slider[1]) < 2 else ""
    controls.append(
        f'<label class="slider"{hidden}>{html.escape(slider[0])} <input type="range" id="slider" min="0" '
        f'max="{len(slider[1]) - 1}" value="0" step="1"><output id="place" for="slider"></output></label>'
    )
    parts = {
        "title": html.escape(title),
        "style": _file("page.css"),
        "sentences": f'<div class="sentences">{_listed(sentences[:2])}</div>',
        "others": f"<details><summary>More to know</summary>{_listed(sentences[2:])}</details>"
        if sentences[2:]
        else "",
        "controls": "".join(controls),
        "sections": "".join(
            f'<section><h2>{html.escape(panel.title)}</h2><div class="plot" id="plot-{index}"></div></section>'
            for index, panel in enumerate(panels)
        ),
        "content": json.dumps(_plain(content), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "plotly": get_plotlyjs(),
        "script": _file("page.js"),
    }
    write_atomically(path, _PAGE.format(**parts).encode())


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><h1>{title}</h1>{sentences}
<noscript>The figures of this page need JavaScript.</noscript>
<main class="panels">{sections}</main>
<form class="controls" onsubmit="return false" autocomplete="off">{controls}</form>
{others}
<script type="application/json" id="content">{content}</script>
<script>{plotly}</script><script>{script}</script></body></html>
"""


def _listed(sentences):
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _file(name):
    return importlib.resources.files("keras_fge.core.pages").joinpath(name).read_text("utf-8")


def _plain(value):
    """What JSON can hold: lists, and numbers of five digits; null for one that is not finite."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
