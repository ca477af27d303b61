"""What was measured, and what it means: data, sentences, figures, and a page for a browser."""

from curves.results.data import part
from curves.results.explorer import explore
from curves.results.plots import plot_paths, plot_planes
from curves.results.results import PathResult, PlaneResult

__all__ = ["PathResult", "PlaneResult", "explore", "part", "plot_paths", "plot_planes"]
