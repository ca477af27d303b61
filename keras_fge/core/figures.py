"""What a notebook shows at the end of a cell: figures, without pyplot, texts and tables. Drawing needs matplotlib."""

import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
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


def as_html(sentences: Sequence[str], rows: Sequence[str] = ()) -> str:
    """Sentences, the first one in bold, and rows of numbers below them."""
    first, *others = map(html.escape, sentences)
    items = "".join(f"<li>{sentence}</li>" for sentence in others)
    numbers = html.escape("\n".join(rows))
    return f"<p><b>{first}</b></p>" + (f"<ul>{items}</ul>" if items else "") + (f"<pre>{numbers}</pre>" if rows else "")


class Sizes(dict):
    """Metrics of ensembles of the first 1, 2, ..., K members: a dictionary of arrays, that can also be a table."""

    def to_frame(self) -> "pandas.DataFrame":
        """A pandas table with a row for each number of members."""
        import pandas

        count = len(next(iter(self.values())))
        return pandas.DataFrame(self, index=pandas.RangeIndex(1, count + 1, name="members"))
