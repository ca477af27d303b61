"""`Reliability`: whether an ensemble is as sure as it is right."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fge.core.output import Output
from keras_fge.core.pages import COLORS, GREY, Panel, Picture, layout

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

BEFORE, AFTER = "before calibration", "after calibration"


class Reliability(dict, Picture):
    """Accuracy against confidence, before and after calibration: a dictionary that can be drawn.

    `{"before calibration": {"count", "confidence", "accuracy", "low", "high", "confidence_of_all", "accuracy_of_all",
    "gap", "gap_error"}, "after calibration": {...}}`, the latter if there is a temperature; see `reliability_bins`.

    Attributes:
        temperature: That of the second entry, or None.
    """

    title = "Reliability"

    def __init__(self, bins: Mapping[str, Mapping[str, Any]], temperature: float | None):
        super().__init__(bins)
        self.temperature = temperature

    @classmethod
    def of(
        cls, output: Output, means: Sequence[np.ndarray], labels: Any, weights: Any, temperature: Any
    ) -> "Reliability":
        """That of one output.

        Args:
            output: What it is.
            means: Its mean probabilities, without a temperature, and, if there is one, with it.
            labels, weights: What they should be.
            temperature: The temperature, or None.
        """
        rows = {name: output.reliability(mean, labels, weights) for name, mean in zip((BEFORE, AFTER), means)}
        return cls(rows, temperature)

    def sentences(self) -> list[str]:
        """Whether it is surer than it is right, or less sure, by more than twice the standard error."""
        before = self[BEFORE]
        numbers = f"{_percent(before['confidence_of_all'])} sure where {_percent(before['accuracy_of_all'])} are right"
        if not abs(before["gap"]) > 2 * before["gap_error"]:  # NaN of one sample.
            return [f"The ensemble is as sure as it is right, as far as these samples tell: {numbers}."]
        said = f"The ensemble is {'surer' if before['gap'] > 0 else 'less sure'} than it is right: {numbers}"
        if self.temperature is None:
            return [f"{said}. `calibrated` finds a temperature."]
        after = self[AFTER]
        is_mended = abs(after["gap"]) <= max(2 * after["gap_error"], abs(before["gap"]) / 4)
        left = "mends it" if is_mended else f"leaves {_percent(after['confidence_of_all'])}"
        return [f"{said}; a temperature of {self.temperature:.2g} {left}."]

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each bin."""
        import pandas

        names = ("count", "confidence", "accuracy", "low", "high")
        frames = {name: pandas.DataFrame({k: row[k] for k in names}) for name, row in self.items()}
        return pandas.concat(frames, names=["", "bin"])

    def draw(self, axes: "Axes") -> None:
        """Draws it with matplotlib: the bars are 95 % intervals, the areas grow with the number of predictions."""
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as sure as right")
        for color, form, (name, row) in zip(COLORS, "os", self.items()):
            bars = [row["accuracy"] - row["low"], row["high"] - row["accuracy"]]
            axes.errorbar(row["confidence"], row["accuracy"], bars, fmt="none", color=color, linewidth=1)
            sizes = 8 + 60 * row["count"] / row["count"].sum()
            axes.scatter(row["confidence"], row["accuracy"], sizes, color=color, marker=form, label=name, zorder=3)
        axes.set(xlabel="confidence", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(frameon=False, loc="upper left")

    def panel(self) -> Panel:
        """The same for a page."""
        line = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "as sure as right"}
        data: list[dict[str, Any]] = [{**line, "line": {"color": GREY, "dash": "dash", "width": 1}}]
        for color, form, (name, row) in zip(COLORS, ("circle", "square"), self.items()):
            taken = row["count"] > 0
            columns = {key: row[key][taken] for key in ("count", "confidence", "accuracy", "low", "high")}
            error = {"type": "data", "symmetric": False, "array": columns["high"] - columns["accuracy"]}
            error |= {"arrayminus": columns["accuracy"] - columns["low"], "color": color, "thickness": 1}
            sizes = 5 + 20 * np.sqrt(columns["count"] / columns["count"].sum())
            look = {"marker": {"color": color, "symbol": form, "size": sizes}, "error_y": error, "name": name}
            texts = [f"{count} predictions" for count in columns["count"]]
            hover = "%{text}<br>confidence %{x:.3f}<br>accuracy %{y:.3f}<extra></extra>"
            points = {"x": columns["confidence"], "y": columns["accuracy"], "text": texts, "hovertemplate": hover}
            data.append({"type": "scatter", "mode": "markers", **look, **points})
        return Panel(self.title, {"": {"data": data, "layout": layout("confidence", "accuracy"), "markers": []}})


def _percent(share):
    return f"{100 * share:.3g} %"
