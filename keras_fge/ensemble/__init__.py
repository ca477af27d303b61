"""What one does with the members of a run: predict, measure, choose, average, draw more of them, export."""

from keras_fge.ensemble.conformal import Conformal
from keras_fge.ensemble.ensemble import Ensemble
from keras_fge.ensemble.members import Members
from keras_fge.ensemble.reliability import Reliability
from keras_fge.ensemble.selective import Selective
from keras_fge.ensemble.swag import SWAG
from keras_fge.ensemble.uncertainty import ood_auroc, ood_fpr, uncertainty

__all__ = [
    "SWAG",
    "Conformal",
    "Ensemble",
    "Members",
    "Reliability",
    "Selective",
    "ood_auroc",
    "ood_fpr",
    "uncertainty",
]
