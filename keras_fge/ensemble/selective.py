"""`Selective`: what it brings to refuse the predictions that an ensemble is least sure of."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_fge.core.output import Output
from keras_fge.core.pages import COLORS, GREY, Panel, Picture, layout
from keras_fge.core.predictions import RunningEntropy, RunningMean, RunningVariance
from keras_fge.ensemble.members import Members

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

NAMES = {"error": "error", "mse": "mean squared error"}


class Selective(dict, Picture):
    """Risk against coverage, as `Ensemble.selective` returns it: a dictionary that can be drawn.

    `{"coverage", "risk", "aurc", "excess_aurc", "refused_for_half"}`, see `risk_coverage`.

    Attributes:
        score: By what the predictions are refused, such as "confidence".
        loss: What the risk is the mean of: "error", or "mse".
    """

    title = "Refusing what is least sure"

    def __init__(self, values: Mapping[str, Any], score: str, loss: str):
        super().__init__(values)
        self.score, self.loss = score, loss

    @classmethod
    def of(
        cls, output: Output, mean: Any, labels: Any, weights: Any, score: str | None = None, unsure: Any = None
    ) -> "Selective":
        """That of mean predictions of one output.

        Args:
            output, mean, labels, weights: The predictions, with their temperature, and what they should be.
            score: "confidence" or "entropy" of probabilities; what `unsure` is. Default: the first that there is.
            unsure: How unsure each prediction is. Default: as the probabilities, or the variance of a mixture, say.
        """
        values = output.selective(mean, labels, weights, score or output.scores[0], unsure)
        return cls(values, score or output.scores[0], "error" if output.has_classes else "mse")

    def sentences(self) -> list[str]:
        """What it brings, in words."""
        risk, half, name = self["risk"][-1], self["refused_for_half"], NAMES[self.loss]
        size = f"{100 * risk:.3g} %" if self.loss == "error" else f"{risk:.3g}"
        if risk == 0:
            return [f"There is no {name} to avoid on these samples."]
        by = "" if self.score in ("confidence", "deviation") else f" (by {self.score})".replace("_", " ")
        if half is None or half > 0.5:
            return [f"Refusing the least sure half{by} does not halve the {name} of {size}."]
        return [f"Refusing the least sure {100 * half:.2g} %{by} halves the {name} of {size}."]

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table: coverage and risk."""
        import pandas

        return pandas.DataFrame({"coverage": self["coverage"], "risk": self["risk"]})

    def draw(self, axes: "Axes") -> None:
        """Draws it with matplotlib; the dashed line is what refusing at random would leave."""
        x, y = self._points()
        axes.axhline(y[-1], color=GREY, linewidth=1, linestyle="--", label="at random")
        axes.plot(x, y, color=COLORS[0], label=f"by {self.score}".replace("_", " "))
        axes.set(xlabel="coverage", ylabel=f"{NAMES[self.loss]} of what is kept", xlim=(0, 1), ylim=(0, None))
        axes.legend(frameon=False)

    def panel(self) -> Panel:
        """The same for a page."""
        x, y = self._points()
        look = {"type": "scatter", "mode": "lines"}
        hover = "coverage %{x:.3f}<br>risk %{y:.4g}<extra></extra>"
        curve = {**look, "x": x, "y": y, "name": f"by {self.score}".replace("_", " "), "hovertemplate": hover}
        random = {**look, "x": [0, 1], "y": [y[-1], y[-1]], "name": "at random"}
        lines = [
            {**random, "line": {"color": GREY, "dash": "dash", "width": 1}},
            {**curve, "line": {"color": COLORS[0], "width": 2}},
        ]
        axes = layout("coverage", f"{NAMES[self.loss]} of what is kept")
        return Panel(self.title, {"": {"data": lines, "layout": axes, "markers": []}})

    def _points(self):
        """At most a thousand points of the curve."""
        chosen = np.unique(np.linspace(0, len(self["risk"]) - 1, min(len(self["risk"]), 1000)).astype(int))
        return self["coverage"][chosen], self["risk"][chosen]


def selective_of(
    members: Members, x: Any, y: Any, batch_size: int | None, score: str | None, weights: Any
) -> Selective:
    """See `Ensemble.selective`."""
    output = members.one_output("selective")
    score = score or output.scores[0]
    if score not in output.scores:
        raise ValueError(f"`score` must be one of {output.scores} for this network. Received: score={score!r}")
    kind: type[RunningMean] = RunningVariance if output.task == "regression" else RunningMean
    kind = RunningEntropy if score == "mutual_information" else kind
    running, mean, labels, shares = members.of_one_output("selective", x, y, weights, batch_size, kind())
    unsure = None
    if isinstance(running, RunningVariance):
        unsure = np.sqrt(keras.tree.flatten(running.variance())[0])
    elif isinstance(running, RunningEntropy):
        unsure = keras.tree.flatten(running.mutual_information())[0]
    return Selective.of(output, keras.tree.flatten(members.scaled(mean))[0], labels, shares, score, unsure)
