"""`Outcome`: what a run brought, to print, plot, tabulate and look at in a browser."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_fge.core.pages import as_table, show
from keras_fge.outcome.comparison import Comparison
from keras_fge.outcome.page import write_run_page
from keras_fge.outcome.plot import plot_run
from keras_fge.outcome.sentences import of_run
from keras_fge.run import Snapshot, Validation, distances_between

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Outcome:
    """What a run of `FGE` or `SnapshotEnsemble` brought; the property `outcome` of the callback makes it.

    `print(outcome)` says it in sentences.

    Args:
        title: What stands on top.
        snapshots: All snapshots of the callback, with their metrics.
        earlier: How many of them are of runs before.
        start: The weights with which the cycles of the last run began, or None.
        rate: The learning rate of the last run as a function of the iteration, or None.
        network: The network, or None.
        validation: The validation data that the members were measured on, or None.
        comparison: What `compare` found at the end of the run, or None.

    Attributes:
        snapshots: All snapshots.
        of_run: Those of the last run.
        comparison: As given.
    """

    def __init__(
        self,
        title: str,
        snapshots: Sequence[Snapshot],
        earlier: int,
        start: Any,
        rate: Callable[[Any], Any] | None,
        network: Any,
        validation: Validation | None,
        comparison: Comparison | None,
    ):
        self.title, self.comparison = title, comparison
        self._samples = validation.samples if validation else None
        self._disagreement = validation.disagreement() if validation else None
        self.snapshots, self.of_run = list(snapshots), list(snapshots[earlier:])
        self._start, self._rate, self._network = start, rate, network

    def sentences(self) -> list[str]:
        """What was measured on validation data, in sentences, and what to distrust in it."""
        compared = self.comparison.sentences() if self.comparison else []
        return [*compared, *(of_run(self.snapshots, self._samples, self._disagreement) if self.snapshots else [])]

    def plot(self, path: str | os.PathLike | None = None, columns: int | None = None) -> "Figure":
        """The paper's figure of the run: learning rate, error, and distances, against the iteration (figure 4).

        Args:
            path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
            columns: 1 or 2: for so many columns of a paper; see `curves.plot_paths`. Default: for a screen.

        Returns:
            A `matplotlib.figure.Figure`. The panel of errors is there if there were `validation_data`.

        Raises:
            ValueError: if no snapshot has been collected yet.
        """
        steps, rates = self._rates()
        return plot_run(steps, rates, self.of_run, path, columns)

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page to look at the run in a browser: one HTML file, which needs no network.

        It shows start and members on the plane of their first two principal components, with the share of the variance
        that this plane has, errors of members and ensembles, distances and the learning rate; a slider goes from member
        to member. Of a classifier it also shows how sure the ensemble is and how often it is right; of that, and of a
        mean and a variance, what refusing its least sure predictions would bring. It needs plotly, when it is written
        only.

        Args:
            path: File to write, such as "run.html".

        Raises:
            ValueError: if no snapshot has been collected yet.
            ImportError: if plotly is not installed.
        """
        steps, rates = self._rates()
        distances = distances_between([self._start, *self.of_run], self._network)
        sentences = self.sentences() or [self.title]
        pictures = [self.comparison.reliability, self.comparison.selective] if self.comparison else []
        panels = [picture.panel() for picture in pictures if picture]
        write_run_page(steps, rates, self.of_run, distances, sentences, path, self.title.partition("(")[0], panels)

    def show(self) -> None:
        """Shows the page of `to_html`: in the cell of a notebook, or else in a browser."""
        show(self.to_html, "run")

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table of the snapshots: "step", "learning_rate", and what was measured."""
        import pandas

        rows = [{"step": s.step, "learning_rate": s.learning_rate, **s.metrics} for s in self.snapshots]
        return pandas.DataFrame(rows, index=range(1, len(rows) + 1))

    def _rates(self):
        """Iterations 1, 2, ... up to the last snapshot, and their learning rates."""
        if self._rate is None or not self.of_run:
            raise ValueError("No snapshot has been collected yet: there is nothing to plot.")
        steps = np.arange(1, self.of_run[-1].step + 1)
        return steps, ops.convert_to_numpy(self._rate(steps))

    def __str__(self) -> str:
        return "\n".join([self.title, *self.sentences()])

    def _repr_html_(self) -> str:
        rows = {k: {"step": s.step, **s.metrics} for k, s in enumerate(self.snapshots, 1)}
        figure = None
        with contextlib.suppress(ImportError, ValueError):  # Without matplotlib, or without a snapshot.
            figure = self.plot()
        return as_table([self.title, *self.sentences()], rows, figure)
