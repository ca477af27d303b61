"""What people look at: figures and texts in a notebook, colours and fonts, and pages for a browser.

Drawing needs matplotlib, pages need plotly; both are loaded when something is drawn.
"""

from keras_fge.core.pages.figures import (
    COLORS,
    GREY,
    WIDTHS,
    Sizes,
    as_html,
    as_table,
    as_text,
    new_figure,
    small_figure,
    style,
    written,
)
from keras_fge.core.pages.page import Panel, layout, marker, write_page
from keras_fge.core.pages.picture import Picture
from keras_fge.core.pages.show import show

__all__ = [
    "COLORS",
    "GREY",
    "WIDTHS",
    "Panel",
    "Picture",
    "Sizes",
    "as_html",
    "as_table",
    "as_text",
    "layout",
    "marker",
    "new_figure",
    "show",
    "small_figure",
    "style",
    "write_page",
    "written",
]
