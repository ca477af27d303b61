"""Figures in the style of the paper. Only this file needs matplotlib."""

LINE_STYLE = {"linestyle": "--", "color": "0.35"}


def plot_paths(results, path=None):
    """Train loss and test error along one or more paths, against t; the endpoints are marked by circles.

    Args:
        results: Dictionary of label to `PathResult`. A label with "line" in it is drawn dashed, in grey.
        path: File to write. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    has_error = all("error" in result.test for result in results.values())
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = [
        ("train", "loss", 1, "train loss"),
        ("test", "error", 100, "test error (%)") if has_error else ("test", "loss", 1, "test loss"),
    ]
    all_axes = figure.subplots(1, 2)
    for axes, (split, quantity, scale, label) in zip(all_axes, panels):
        for name, result in results.items():
            values = scale * getattr(result, split)[quantity]
            style = LINE_STYLE if "line" in name else {}
            axes.plot(result.t, values, label=name, linewidth=2, **style)
            axes.plot(result.t[[0, -1]], values[[0, -1]], "o", color="black", clip_on=False)
        axes.set(xlabel="t", ylabel=label, xlim=(0, 1))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
    all_axes[0].legend()
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
