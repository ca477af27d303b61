"""Fast Geometric Ensembles (FGE) and Snapshot Ensembles from one training run, for Keras 3.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, https://arxiv.org/abs/1802.10026
"""

import keras_fge.core  # noqa: F401 - it chooses the backend, before anything here loads Keras.
from keras_fge.checkpoint import Checkpoint
from keras_fge.core.metrics import calibrated_metrics, classification_metrics
from keras_fge.core.mixture import gaussian_nll
from keras_fge.core.value_metrics import regression_metrics
from keras_fge.ema import EMA
from keras_fge.ensemble import SWAG, Conformal, Ensemble, ood_auroc, ood_fpr, uncertainty
from keras_fge.fge import FGE, SnapshotEnsemble
from keras_fge.run import Batches, Snapshot
from keras_fge.schedule import PaperTraining, cosine, piecewise_linear, triangular

__version__ = "0.3.0"

__all__ = [
    "EMA",
    "FGE",
    "SWAG",
    "Batches",
    "Checkpoint",
    "Conformal",
    "Ensemble",
    "PaperTraining",
    "Snapshot",
    "SnapshotEnsemble",
    "calibrated_metrics",
    "classification_metrics",
    "cosine",
    "gaussian_nll",
    "ood_auroc",
    "ood_fpr",
    "piecewise_linear",
    "regression_metrics",
    "triangular",
    "uncertainty",
]
