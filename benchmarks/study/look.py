"""The look of the benchmark's figures: the library's fonts and colours, one width, one resolution."""

import functools

from matplotlib.figure import Figure

from keras_fge.core.pages import style

WIDTH, DPI = 11, 110  # Inches, and points an inch: sharp at the width of a page in a browser.


def styled(draw):
    """A function that draws, with the look of the library's own figures."""

    @functools.wraps(draw)
    def drawn(*arguments, **named):
        with style(None):
            return draw(*arguments, **named)

    return drawn


def new_figure(height):
    return Figure(figsize=(WIDTH, height), layout="constrained")


def save(figure, path):
    figure.savefig(path, dpi=DPI)
