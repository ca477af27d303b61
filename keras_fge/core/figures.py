"""Figures that a notebook shows at the end of a cell, without pyplot. Only what draws needs matplotlib."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**arguments: Any) -> "Figure":
    """A `matplotlib.figure.Figure` made of `arguments`."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=100)
            return content.getvalue()

    return Shown(**arguments)
