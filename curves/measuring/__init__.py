"""Loss, metrics and ensembles along curves and on planes: `evaluate_path`, `evaluate_plane` and `PathValidation`.

A `Meter` measures one model at one position after the other; `Points` keeps the rows in a file.
"""

from curves.measuring.meter import Meter
from curves.measuring.path import evaluate_path
from curves.measuring.path_validation import PathValidation
from curves.measuring.plane import evaluate_plane
from curves.measuring.points import Points
from curves.measuring.sharpness import sharpness

__all__ = ["Meter", "PathValidation", "Points", "evaluate_path", "evaluate_plane", "sharpness"]
