"""What results say of themselves: each sentence where it belongs, and not where it does not."""

import dataclasses
import html

import numpy as np
import pytest
from matplotlib.text import Text

import curves
import keras_fge
from curves.results import diagnosis
from keras_fge.outcome.plot import plot_run
from keras_fge.outcome.sentences import of_run

pytestmark = pytest.mark.once

T = np.linspace(0, 1, 21)
BUMP = np.sin(np.pi * T)


def path(loss, error=None, ensemble=None, line=None, loss_name="nll", num_bends=3, **settings):
    """A path with this train loss, and this test error in per cent."""
    loss = np.asarray(loss, "float64")
    t = np.linspace(0, 1, len(loss))
    train, test = {"loss": loss, loss_name: loss}, {"loss": loss}
    if error is not None:
        test["error"] = np.asarray(error) / 100
    together = {} if ensemble is None else {"with_start_error": np.asarray(ensemble) / 100}
    settings = {"curve": [f"Bezier(num_bends={num_bends}), fix_start=True"], "num_bends": num_bends, **settings}
    return curves.PathResult(t, t, 1.0, train, test, together, settings, line)


def said(result, words):
    return any(words in sentence for sentence in str(result).splitlines())


def test_the_sentence_of_a_curve_around_a_barrier():
    line = path(0.1 + 1.53 * BUMP, 31 + 44 * BUMP, num_bends=2)
    curve = path(0.1 + 0.01 * BUMP, 31.6 + 2.1 * T, line=line)
    assert str(curve).splitlines()[0] == (
        "The straight line has a barrier of 1.53 nat (75 % test error at t = 0.50); the Bezier curve has none "
        "(0.01 nat): the networks are connected. Test error along it: 31.6 to 33.7 %."
    )
    assert curve._repr_html_().startswith(f"<p><b>{html.escape(str(curve).splitlines()[0])}</b></p>")


@pytest.mark.parametrize(
    ("line", "curve", "words"),
    [
        (1.0, 0.6, "the Bezier curve has a barrier of 0.6 nat (at t = 0.50): it does not connect them."),
        (0.01, 0.01, "the networks are linearly connected, also without a curve."),
        (0.01, 0.6, "the networks are linearly connected; the curve is worse"),
        (None, 0.6, "The Bezier curve has a barrier of 0.6 nat (at t = 0.50): it does not connect the networks."),
        (None, 0.01, "The Bezier curve has no barrier (0.01 nat): it connects the networks."),
    ],
)
def test_verdicts(line, curve, words):
    result = path(0.1 + curve * BUMP, line=None if line is None else path(0.1 + line * BUMP, num_bends=2))
    assert words in str(result).splitlines()[0]


def test_what_counts_as_a_barrier():
    assert diagnosis.has_barrier(path(0.1 + 0.051 * BUMP)) and not diagnosis.has_barrier(path(0.1 + 0.049 * BUMP))
    assert diagnosis.has_barrier(path(0 * T, 5 + 2.1 * BUMP)) and not diagnosis.has_barrier(path(0 * T, 5 + BUMP))
    # Of a loss whose unit is not known, a tenth of the larger end.
    assert diagnosis.has_barrier(path(20 + 3 * BUMP, loss_name="mse"))
    assert not diagnosis.has_barrier(path(20 + 1.5 * BUMP, loss_name="mse"))
    assert "barrier of 3 (at t" in str(path(20 + 3 * BUMP, loss_name="mse"))  # No nat.


def test_a_loss_that_is_not_finite_is_a_barrier():
    result = path(np.where(T == 0.5, np.nan, 0.1))
    assert said(result, "a loss that is not finite at 1 of its 21 positions: it does not connect")


def test_few_positions():
    assert said(path(np.full(5, 0.1)), "5 positions do not show what lies between them")
    assert not said(path(np.full(21, 0.1)), "do not show")
    assert said(path([0.1, 0.1, 2.0, 0.1, 0.1]), "next to the highest position the loss is 1.9 lower")
    assert said(path(0.1 + 0 * T, line=path([0.1, 2.0, 0.1], num_bends=2)), "next to the highest position")
    assert not said(path(0.1 + BUMP), "next to the highest position")


def test_ends_that_are_no_minima():
    assert said(path(1 - 0.5 * BUMP), "between them the train loss falls to 0.5, below the 1 of the better end")
    assert not said(path(1 - 0.1 * BUMP), "not at a minimum") and not said(path(1 + BUMP), "not at a minimum")
    assert not said(path(0.02 - 0.015 * BUMP), "not at a minimum")  # Too little, in nat, to speak of.


def test_batch_normalization_on_few_samples():
    assert said(path(0.1 + 0 * T, batch_norm_samples=100), "come from 100 samples: their means are uncertain by 10 %")
    assert not said(path(0.1 + 0 * T, batch_norm_samples=400), "BatchNormalization")
    assert not said(path(0.1 + 0 * T), "BatchNormalization")


def test_ends_with_other_statistics():
    loss = 0.3 + 0.001 * BUMP
    loss[-1] = 0.1
    assert said(path(loss, batch_norm_samples=1000), "Next to t = 1 the train loss jumps by 0.2")
    assert said(path(loss[::-1], batch_norm_samples=1000), "Next to t = 0 the train loss jumps by 0.2")
    assert not said(path(loss), "jumps")  # Without such layers it has another reason.
    assert not said(path(0.3 + BUMP, batch_norm_samples=1000), "jumps")


def test_few_test_samples():
    error = 20 + 2 * BUMP
    assert said(path(0 * T, error, test_samples=400), "On 400 test samples a test error has a standard error of 2 ")
    assert not said(path(0 * T, error, test_samples=40000), "standard error")
    assert not said(path(0 * T, error), "standard error")


def test_networks_that_are_alike():
    error = 20 + 0 * T
    assert said(path(0 * T, error, error - 0.1, test_samples=10000), "hardly differ in what they predict")
    assert not said(path(0 * T, error, error - 5 * BUMP, test_samples=10000), "hardly differ")


def plane(size=11, far=0.0, **settings):
    x = np.linspace(0, 10, size)
    values = np.add.outer(x, x)
    far = np.full(61, far)
    vertices = np.array([[1.0, 1.0], [5.0, 9.0], [9.0, 1.0]])
    curve = np.stack([np.linspace(1, 9, 61), 1 + 4 * np.sin(np.linspace(0, np.pi, 61))], axis=1)
    train, test = {"loss": values, "nll": values}, {"loss": values, "error": values / 40}
    return curves.PlaneResult(x, x, vertices, curve, far, train, test, settings)


def test_sentences_about_a_plane():
    assert str(plane()).splitlines()[0] == (
        "On the plane (11 x 11 points): train loss 0 to 20 nat, test error 0 to 50 %. "
        "Its three networks are 8.94, 8, 8.94 from each other."
    )
    assert said(plane(7), "The grid is coarse") and not said(plane(11), "The grid is coarse")
    assert said(plane(far=2.0), "up to 2 away, 25 % of the distance between the ends")
    assert said(plane(far=0.1), "The curve lies in the plane, up to a distance of 0.1")
    assert said(plane(batch_norm_samples=25), "uncertain by 20 %") and not said(plane(), "uncertain")
    damaged = plane()
    damaged.train["loss"][0, 0] = np.nan
    assert said(damaged, "not finite at 1 of the 121 points") and not said(plane(), "not finite")
    assert not said(dataclasses.replace(plane(), path_distance=np.zeros(0), path=np.zeros((0, 2))), "The curve")


def snapshots(members, ensembles, name="error"):
    metrics = [{f"member_{name}": m, f"ensemble_{name}": e} for m, e in zip(members, ensembles)]
    return [keras_fge.Snapshot([np.zeros(1)], step, 0.1, values) for step, values in enumerate(metrics)]


def test_sentences_about_a_run():
    good = of_run(snapshots([0.30, 0.31, 0.30, 0.31], [0.30, 0.27, 0.26, 0.25]), 10000)
    assert good == ["The ensemble of 4 has a validation error of 25 %, its members 30.5 % on average (30 to 31)."]
    # Whether members differ is a matter of what they predict, not of what the ensemble gains.
    no_gain = snapshots([0.30] * 4, [0.30] * 4)
    alike = of_run(no_gain, 10000, 0.02)
    assert alike[1].startswith(
        "The members hardly differ: two of them disagree on 2 % of the predictions. Larger rates"
    )
    assert len(of_run(no_gain, 10000, 0.38)) == 2 and "hardly differ" not in " ".join(of_run(no_gain, 10000, 0.38))
    assert "hardly differ" not in " ".join(of_run(no_gain, 10000))  # Not known.
    worse = of_run(snapshots([0.30, 0.30, 0.40, 0.40], [0.30, 0.28, 0.27, 0.26]), 10000)
    assert len(worse) == 2 and "The members get worse, from 30 to 40" in worse[1]
    few = of_run(snapshots([0.30, 0.31, 0.30, 0.31], [0.30, 0.27, 0.26, 0.25]), 100)
    assert few[1].startswith("On 100 validation samples an error has a standard error of 4.6 points")
    values = of_run(snapshots([2.0, 2.0], [2.0, 1.5], "mse"), 100)
    assert values == ["The ensemble of 2 has a validation mse of 1.5, its members 2 on average (2 to 2)."]
    values = of_run(snapshots([2.0, 2.0], [2.0, 1.99], "mse"), 100)
    assert values[1].startswith("The members hardly differ: the variance of what they predict is 0.01.")
    assert of_run([keras_fge.Snapshot([np.zeros(1)])], 100) == []  # Nothing was measured.


@pytest.mark.parametrize(("columns", "width"), [(1, 3.3), (2, 6.9)])
def test_figures_for_a_paper(columns, width, tmp_path):
    """As wide as so many columns, in a vector format with text, no font below 7 points, the legend on no data.

    No title, label or legend leaves the figure, and the panels keep most of its width.
    """
    line = path(0.1 + BUMP, 10 + 80 * BUMP, num_bends=2)
    result = path(0.1 + 0.01 * BUMP, 10 + BUMP, 9 + BUMP, line=line)
    metrics = {"distance_from_start": 1.0, "distance_from_last": 1.0}
    metrics |= dict.fromkeys(["member_error", "ensemble_error", "average_error"], 0.1)
    members = [keras_fge.Snapshot([np.zeros(1)], step, 0.1, metrics) for step in (2, 6)]
    figures = [
        result.plot(tmp_path / "path.svg", columns=columns),
        curves.plot_planes({"a": plane(), "b": plane()}, tmp_path / "plane.svg", columns=columns),
        plot_run(np.arange(1, 7), np.ones(6), members, tmp_path / "run.svg", columns),
    ]
    for figure, name in zip(figures, ("path", "plane", "run")):
        assert figure.get_size_inches()[0] == width
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert texts and min(text.get_fontsize() for text in texts) >= 7
        content = (tmp_path / f"{name}.svg").read_text()
        assert "<text" in content
        figure.canvas.draw()
        whole = figure.bbox.padded(1)
        ticks = {
            text for a in figure.axes for text in (*a.get_xticklabels(which="both"), *a.get_yticklabels(which="both"))
        }
        for text in set(texts) - ticks:  # Ticks beyond the ends of an axis are not drawn, but here.
            box = text.get_window_extent()
            assert whole.contains(*box.min) and whole.contains(*box.max), text.get_text()
        spans = [(axes.get_position().x0, axes.get_position().x1) for axes in figure.axes]
        assert max(end for _, end in spans) - min(start for start, _ in spans) > 0.7
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert legends
        for legend in legends:
            box = legend.get_window_extent().padded(-2)
            assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_planes_of_one_figure_have_one_scale():
    small, large = plane(), plane()
    large.train["loss"] = 10 * large.train["loss"]
    figure = curves.plot_planes({"small": small, "large": large})
    assert len(figure.axes) == 3 and figure.axes[0].collections[0].norm is figure.axes[1].collections[0].norm
    half = {name: getattr(plane(), name) * [1, 0.5] for name in ("vertices", "path")}
    slim = dataclasses.replace(plane(), y=plane().y / 2, **half)
    figure = curves.plot_planes({"slim": slim, "other": plane()})
    figure.draw_without_rendering()
    first, second, bar = (axes.get_window_extent() for axes in figure.axes)
    assert (first.width, first.height) == pytest.approx((second.width, second.height), rel=0.02)
    assert bar.height == pytest.approx(first.height, rel=0.1)  # All but its tip.
    figure = slim.plot()  # One alone has its distances to scale, and no room around it.
    figure.draw_without_rendering()
    axes, bar = figure.axes[0], figure.axes[0].child_axes[0]
    box = axes.get_window_extent()
    assert box.height / box.width == pytest.approx(np.ptp(slim.y) / np.ptp(slim.x), rel=0.05)
    assert bar.get_window_extent().height > 0.9 * box.height > 0.4 * figure.bbox.height
    with pytest.raises(ValueError, match="`columns` must be 1, 2 or None"):
        small.plot(columns=3)
