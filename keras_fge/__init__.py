"""Fast Geometric Ensembles (FGE) and Snapshot Ensembles from one training run, for Keras 3.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, https://arxiv.org/abs/1802.10026
"""

import keras_fge.core  # noqa: F401 - it chooses the backend, before anything here loads Keras.
from keras_fge.batches import Batches
from keras_fge.checkpoint import Checkpoint
from keras_fge.core.metrics import calibrated_metrics, classification_metrics, regression_metrics
from keras_fge.ensemble import Ensemble
from keras_fge.fge import FGE
from keras_fge.schedule import cosine, piecewise_linear, triangular
from keras_fge.snapshot_ensemble import SnapshotEnsemble
from keras_fge.snapshots import Snapshot
from keras_fge.swag import SWAG
from keras_fge.uncertainty import ood_auroc, uncertainty

__version__ = "0.2.0"

__all__ = [
    "FGE",
    "SWAG",
    "Batches",
    "Checkpoint",
    "Ensemble",
    "Snapshot",
    "SnapshotEnsemble",
    "calibrated_metrics",
    "classification_metrics",
    "cosine",
    "ood_auroc",
    "piecewise_linear",
    "regression_metrics",
    "triangular",
    "uncertainty",
]
