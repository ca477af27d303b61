"""What a notebook shows at the end of a cell: figures, without pyplot, and texts. Only what draws needs matplotlib."""

import html
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


def text_as_html(text: str) -> str:
    """A text of several lines as a notebook is to show it."""
    return f"<pre>{html.escape(text)}</pre>"
