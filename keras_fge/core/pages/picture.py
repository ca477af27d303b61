"""`Picture`: a result that one looks at as one figure, with sentences, on paper, in a notebook and in a browser."""

import abc
import contextlib
import os
from typing import TYPE_CHECKING, Any

from keras_fge.core.pages.figures import WIDTHS, as_table, new_figure, style, written
from keras_fge.core.pages.page import Panel, write_page
from keras_fge.core.pages.show import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Picture(abc.ABC):
    """What has `sentences`, and draws itself with matplotlib and as a panel of a page.

    Attributes:
        title: What stands on top of the page, and in the name of its file.
    """

    title: str

    @abc.abstractmethod
    def sentences(self) -> list[str]:
        """What it says, in words."""

    @abc.abstractmethod
    def draw(self, axes: "Axes") -> None:
        """Draws it with matplotlib."""

    @abc.abstractmethod
    def panel(self) -> Panel:
        """The same for a page."""

    def plot(self, path: str | os.PathLike | None = None, columns: int | None = None) -> "Figure":
        """The figure, by matplotlib.

        Args:
            path: File to write; matplotlib takes the format from its ending, such as .pdf or .svg. Default: none.
            columns: 1 or 2: for so many columns of a paper, 3.3 or 6.9 inches wide. Default: for a screen.
        """
        with style(columns):
            size = (5.0, 4.0) if columns is None else (WIDTHS[columns], 2.6)
            figure = new_figure(figsize=size, layout="constrained")
            axes = figure.subplots()
            self.draw(axes)
            axes.grid(alpha=0.3)
            return written(figure, path)

    def to_html(self, path: str | os.PathLike) -> None:
        """Writes a page with sentences and figure for a browser: one file, which needs no network. It needs plotly."""
        write_page(path, self.title, self.sentences(), [self.panel()], {}, ("", [""]))

    def show(self) -> None:
        """Shows the page of `to_html`: in the cell of a notebook, or else in a browser."""
        show(self.to_html, self.title.lower().replace(" ", "-"))

    def _repr_html_(self) -> str:
        figure: Any = None
        with contextlib.suppress(ImportError):  # Without matplotlib.
            figure = self.plot()
        return as_table(self.sentences(), {}, figure)
