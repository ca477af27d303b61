"""The picture at the top of the README: a plane of weight space, and what FGE brings against the time of training."""

import matplotlib
import numpy as np
from scipy.ndimage import zoom

import curves
from keras_fge.core.pages import COLORS, style
from report.comparisons import standard_error, values
from report.tables import METHODS, passes_of
from study.look import new_figure
from study.presets import BUDGETS
from study.records import Records

INK = {False: "#1b1f24", True: "#e6edf3"}  # Of light and dark pages.
PAPER = {False: "white", True: "#0d1117"}
FINER = 8  # Times as many points as were measured, in each direction: by cubic splines of the logarithm.


def draw(folder, is_dark):
    ink, paper = INK[is_dark], PAPER[is_dark]
    colors = {name: ink for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
    with style(None), matplotlib.rc_context({**colors, "axes.facecolor": paper, "figure.facecolor": paper}):
        figure = new_figure(3.7)
        plane, gain = figure.subplots(1, 2, width_ratios=(1.9, 1))
        draw_plane(figure, plane, curves.PlaneResult.load(folder / "fashion_subset" / "plane_bezier.npz"))
        draw_gain(gain, Records(folder / "cifar10_jpeg"), ink)
    return figure


def draw_plane(figure, axes, plane):
    """Train loss in the plane of two networks and the bend of a curve between them."""
    x, y, loss = (zoom(array, FINER, order=3) for array in (plane.x, plane.y, np.log(plane.train["loss"])))
    levels = np.geomspace(np.exp(loss.min()), 3, 13)
    contours = axes.contourf(x, y, np.exp(loss), levels, norm="log", cmap="viridis_r", extend="max")
    bar = figure.colorbar(
        contours, cax=axes.inset_axes([1.02, 0, 0.03, 1]), ticks=[0.2, 0.5, 1, 2], label="train loss (nat)"
    )
    bar.ax.set_yticklabels(["0.2", "0.5", "1", "2"])
    bar.ax.minorticks_off()
    ends = plane.vertices[[0, 2]]
    axes.plot(*ends.T, "--", color="white", linewidth=2)
    axes.plot(*plane.path.T, color="black", linewidth=2.5)
    axes.plot(*ends.T, "o", color="black", markeredgecolor="white", markersize=9, clip_on=False)
    middle = len(plane.path) // 2
    text = {"ha": "center", "fontsize": 10, "fontweight": "bold"}
    axes.text(ends[:, 0].mean(), ends[:, 1].mean() - 1.6, "straight line: over the wall", color="white", **text)
    axes.text(plane.path[middle, 0], plane.path[middle, 1] + 1.2, "curve: around it", color="black", **text)
    axes.set(
        title="Two networks, small CNN on Fashion-MNIST (subset)", xlabel="distance in weight space", aspect="equal"
    )


def draw_gain(axes, records, ink):
    """Calibrated NLL against the budget, mean and standard error."""
    labels = {"ind": "independent networks", "fge": f"FGE, {passes_of(records, 'fge')} members a run"}
    for (method, label), color in zip(labels.items(), (COLORS[0], METHODS["fge"][1])):
        found = [list(values(records, method, budget, "calibrated_nll").values()) for budget in BUDGETS]
        means, errors = [np.mean(v) for v in found], [standard_error(v) for v in found]
        axes.errorbar(BUDGETS, means, errors, marker="o", capsize=3, color=color, label=label, linewidth=2)
    axes.set(
        title="8 seeds, small CNN on CIFAR-10 (JPEG)",
        xlabel="training, in runs of one network",
        ylabel="test NLL, with a temperature (nat)",
        xticks=BUDGETS,
    )
    axes.grid(alpha=0.15, color=ink)
    axes.legend(labelcolor=ink)
