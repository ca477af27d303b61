"""`Coverage`: how often sets, or intervals, hold the right answer, and how large they are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fge.core.pages import COLORS, GREY, Panel, Picture, layout
from keras_fge.core.weighting import wilson

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


class Coverage(dict, Picture):
    """What `Conformal.evaluate` returns: a dictionary that can be drawn.

    Attributes:
        alpha: How often the answer may be missed, as it was asked for.
    """

    title = "Coverage"

    def __init__(self, values: Mapping[str, Any], alpha: float):
        super().__init__(values)
        self.alpha = alpha

    @classmethod
    def of_samples(cls, inside: np.ndarray, alpha: float, others: Mapping[str, Any]) -> dict[str, Any]:
        """The fraction of samples that is covered, with its interval, before `others`."""
        share = float(np.mean(inside))
        low, high = wilson(share, len(inside))
        return {"coverage": share, "coverage_low": float(low), "coverage_high": float(high), **others}

    def sentences(self) -> list[str]:
        """What they hold, in words; and whether that is what was asked for."""
        asked = 1 - self.alpha
        low, high = self["coverage_low"], self["coverage_high"]
        holds = f"in {100 * self['coverage']:.3g} % of cases (95 % interval {100 * low:.3g} to {100 * high:.3g} %)"
        said = [f"{self._what()} {holds}; {100 * asked:.3g} % were asked for."]
        if high < asked:
            said.append("That is less: the calibration samples are few, or of another kind than these.")
        return said

    def _what(self):
        raise NotImplementedError


class SetCoverage(Coverage):
    """Of sets of classes."""

    @classmethod
    def of(cls, sets: np.ndarray, labels: np.ndarray, alpha: float) -> "SetCoverage":
        """That of sets, bool of shape `(N, classes)`, and classes `(N,)`."""
        inside, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
        by_class = [np.mean(inside[labels == c]) if np.any(labels == c) else np.nan for c in range(sets.shape[1])]
        found = np.unique(sizes)
        others = {"size": float(np.mean(sizes)), "coverage_by_class": np.array(by_class)}
        others["coverage_by_size"] = {int(size): float(np.mean(inside[sizes == size])) for size in found}
        others["count_by_size"] = {int(size): int(np.sum(sizes == size)) for size in found}
        return cls(cls.of_samples(inside, alpha, others), alpha)

    def _what(self):
        return f"Sets of {self['size']:.3g} classes on average hold the right one"

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each size of a set."""
        import pandas

        columns = {"count": self["count_by_size"], "coverage": self["coverage_by_size"]}
        return pandas.DataFrame(columns).rename_axis("size")

    def draw(self, axes: "Axes") -> None:
        """Draws it with matplotlib: how many sets have which size, and how many of them hold the right class."""
        sizes, counts, held = self._columns()
        axes.bar(sizes, counts, color=COLORS[5], edgecolor="black", linewidth=0.5, label="all sets")
        look: dict[str, Any] = {"hatch": "///", "edgecolor": "black", "linewidth": 0.5}
        axes.bar(sizes, held, color=COLORS[0], label="with the right class", **look)
        axes.set(xlabel="classes in a set", ylabel="samples")
        axes.set_xticks(sizes)
        axes.legend(frameon=False)

    def panel(self) -> Panel:
        """The same for a page."""
        sizes, counts, held = self._columns()
        hover = "%{x} classes<br>%{y} samples<extra></extra>"
        bars = [
            {"type": "bar", "x": sizes, "y": values, "name": name, "marker": {"color": color}, "hovertemplate": hover}
            for name, values, color in (
                ("all sets", counts, COLORS[5]),
                ("with the right class", held, COLORS[0]),
            )
        ]
        axes = {**layout("classes in a set", "samples"), "barmode": "overlay"}
        return Panel(self.title, {"": {"data": bars, "layout": axes, "markers": []}})

    def _columns(self):
        sizes, counts = list(self["count_by_size"]), list(self["count_by_size"].values())
        return sizes, counts, [round(n * c) for n, c in zip(counts, self["coverage_by_size"].values())]


class IntervalCoverage(Coverage):
    """Of intervals.

    Attributes:
        against: What the intervals are drawn against, such as "x".
        points: That, the targets, lower and upper, shape `(4, M)`: of the first target, of at most 1,000 samples.
    """

    def __init__(self, values: Mapping[str, Any], alpha: float, against: str, points: np.ndarray):
        super().__init__(values, alpha)
        self.against, self.points = against, points

    @classmethod
    def of(cls, lower: np.ndarray, upper: np.ndarray, targets: np.ndarray, x: Any, alpha: float) -> "IntervalCoverage":
        """That of intervals and targets of one shape `(N, ...)`; they are drawn against x, if that is one number."""
        inside, widths = (lower <= targets) & (targets <= upper), upper - lower
        rows = [array.reshape(len(targets), -1) for array in (inside, widths, targets, lower, upper)]
        covered = rows[0].mean(axis=1)
        quarters = np.array_split(covered[np.argsort(rows[1].mean(axis=1), kind="stable")], 4)
        by_width = np.array([np.mean(quarter) if len(quarter) else np.nan for quarter in quarters])
        others = {"width": float(np.mean(widths)), "coverage_by_width": by_width}
        is_number = np.size(x) == len(targets) if hasattr(x, "shape") else False
        first = [part[:, 0] for part in rows[2:]]
        place = np.ravel(np.asarray(x)) if is_number else (first[1] + first[2]) / 2
        order = np.argsort(place, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), 1000)).astype(int))]
        points = np.stack([place, *first])[:, chosen]
        values = cls.of_samples(covered, alpha, others)
        return cls(values, alpha, "x" if is_number else "middle of the interval", points)

    def _what(self):
        return f"Intervals of a mean width of {self['width']:.3g} hold the value"

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table of the points."""
        import pandas

        return pandas.DataFrame(dict(zip((self.against, "y", "lower", "upper"), self.points)))

    def draw(self, axes: "Axes") -> None:
        """Draws it with matplotlib: intervals, and the values in them and outside."""
        place, y, lower, upper = self.points
        inside = (lower <= y) & (y <= upper)
        axes.fill_between(place, lower, upper, color=COLORS[5], alpha=0.4, linewidth=0, label="interval")
        axes.plot(place[inside], y[inside], ".", color=COLORS[0], markersize=3, label="held")
        axes.plot(place[~inside], y[~inside], "x", color=COLORS[1], markersize=4, label="missed")
        axes.set(xlabel=self.against, ylabel="y")
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)

    def panel(self) -> Panel:
        """The same for a page."""
        place, y, lower, upper = self.points
        inside = (lower <= y) & (y <= upper)
        line = {"type": "scatter", "mode": "lines", "x": place, "line": {"color": GREY, "width": 1}}
        data: list[dict[str, Any]] = [
            {**line, "y": lower, "name": "lower"},
            {**line, "y": upper, "name": "upper", "fill": "tonexty", "fillcolor": "rgba(86, 180, 233, 0.3)"},
        ]
        for name, rows, color, form in (("held", inside, COLORS[0], "circle"), ("missed", ~inside, COLORS[1], "x")):
            look = {"marker": {"color": color, "symbol": form, "size": 5}, "name": name}
            data.append({"type": "scatter", "mode": "markers", "x": place[rows], "y": y[rows], **look})
        return Panel(self.title, {"": {"data": data, "layout": layout(self.against, "y"), "markers": []}})
