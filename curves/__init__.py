"""Curves of low loss between trained networks (mode connectivity), for Keras 3.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, https://arxiv.org/abs/1802.10026
"""

import keras_fge  # Chooses the backend, before anything here loads Keras.
from curves.alignment import align, align_all
from curves.connect import connect
from curves.curve import Curve
from curves.layers import CurveBatchNormalization, CurveConv2D, CurveDense
from curves.measuring import PathValidation, evaluate_path, evaluate_plane, sharpness
from curves.model import CurveModel
from curves.parametrization import Bezier, PolygonalChain, Simplex
from curves.regularizers import CosineRegularizer, VolumeRegularizer
from curves.results import PathResult, PlaneResult, explore, plot_paths, plot_planes
from curves.subspace import sample_subspace
from curves.wise_ft import wise_ft
from keras_fge.core.batch_norm import update_batch_norm

__version__ = keras_fge.__version__

__all__ = [
    "Bezier",
    "CosineRegularizer",
    "Curve",
    "CurveBatchNormalization",
    "CurveConv2D",
    "CurveDense",
    "CurveModel",
    "PathResult",
    "PathValidation",
    "PlaneResult",
    "PolygonalChain",
    "Simplex",
    "VolumeRegularizer",
    "align",
    "align_all",
    "connect",
    "evaluate_path",
    "evaluate_plane",
    "explore",
    "plot_paths",
    "plot_planes",
    "sample_subspace",
    "sharpness",
    "update_batch_norm",
    "wise_ft",
]
