"""What a notebook shows at the end of a cell: figures, without pyplot, texts and tables. Drawing needs matplotlib."""

import base64
import contextlib
import html
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fge.core.files import local_path

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


# Okabe and Ito, which readers with any colour vision tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
GREY = "#7f7f7f"  # Of the straight line.
WIDTHS = {1: 3.3, 2: 6.9}  # Inches, of one and of two columns of a paper.


@contextlib.contextmanager
def style(columns: int | None) -> Iterator[None]:
    """What is drawn inside has the look of all our figures, and the fonts of a paper of so many columns, as text."""
    import matplotlib

    fonts: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "axes.titlesize": 11, "legend.fontsize": 9}
    fonts |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    if columns is not None:
        if columns not in WIDTHS:
            raise ValueError(f"`columns` must be 1, 2 or None. Received: columns={columns!r}")
        small = ["xtick.labelsize", "ytick.labelsize", "legend.fontsize"]
        fonts |= {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, **dict.fromkeys(small, 7)}
    with matplotlib.rc_context(fonts):
        yield


def new_figure(**arguments: Any) -> "Figure":
    """A `matplotlib.figure.Figure` made of `arguments`."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=100)
            return content.getvalue()

    return Shown(**arguments)


def written(figure: "Figure", path: str | os.PathLike | None) -> "Figure":
    """The figure, which is also written to `path` if there is one."""
    if path is not None:
        figure.savefig(local_path(path), dpi=150)
    return figure


def as_html(sentences: Sequence[str], rows: Sequence[str] = ()) -> str:
    """Sentences, the first one in bold, and rows of numbers below them."""
    first, *others = map(html.escape, sentences)
    items = "".join(f"<li>{sentence}</li>" for sentence in others)
    numbers = html.escape("\n".join(rows))
    return f"<p><b>{first}</b></p>" + (f"<ul>{items}</ul>" if items else "") + (f"<pre>{numbers}</pre>" if rows else "")


def as_table(sentences: Sequence[str], rows: Mapping[Any, Mapping[str, Any]], figure: Any = None) -> str:
    """Sentences, a table with a row of numbers for each name, and a figure below them."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{html.escape(str(name))}</th>"
        + "".join(f"<td>{as_text(row[column]) if column in row else ''}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    picture = ""
    if figure is not None:
        content = base64.b64encode(figure._repr_png_()).decode()
        picture = f'<img alt="figure" src="data:image/png;base64,{content}">'
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return (as_html(sentences) if sentences else "") + table + picture


def small_figure(series: Mapping[str, Sequence[float]], label: str) -> "Figure | None":
    """Up to three series of values at 1, 2, ..., side by side; None without matplotlib, or without values."""
    chosen = list(series.items())[:3]
    try:
        figure = new_figure(figsize=(2.4 * len(chosen), 2), layout="constrained") if chosen else None
    except ImportError:
        return None
    for axes, (name, values) in zip(figure.subplots(1, len(chosen), squeeze=False)[0] if figure else (), chosen):
        axes.plot(range(1, len(values) + 1), values, "o-", markersize=3, color=COLORS[0])
        axes.set(title=name.replace("_", " "), xlabel=label)
        axes.grid(alpha=0.3)
    return figure


def as_text(value: Any) -> str:
    """A value in a table: four digits of a float, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


class Sizes(dict):
    """Metrics of ensembles of the first 1, 2, ..., K members: a dictionary of arrays, that can also be a table."""

    def _repr_html_(self) -> str:
        count = len(next(iter(self.values())))
        rows = {k + 1: {name: float(values[k]) for name, values in self.items()} for k in range(count)}
        return as_table([], rows, small_figure(self, "members"))

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each number of members."""
        import pandas

        count = len(next(iter(self.values())))
        return pandas.DataFrame(self, index=pandas.RangeIndex(1, count + 1, name="members"))
