"""Curves of low loss between trained networks (mode connectivity), for Keras 3.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, https://arxiv.org/abs/1802.10026
"""

from curves.batch_norm import update_batch_norm
from curves.connect import connect
from curves.evaluate import evaluate_path, evaluate_plane
from curves.layers import Curve, CurveBatchNormalization, CurveConv2D, CurveDense
from curves.model import CurveModel
from curves.parametrization import Bezier, PolygonalChain
from curves.plots import plot_paths, plot_planes
from curves.results import PathResult, PlaneResult
from curves.validation import PathValidation

__all__ = [
    "Bezier",
    "Curve",
    "CurveBatchNormalization",
    "CurveConv2D",
    "CurveDense",
    "CurveModel",
    "PathResult",
    "PathValidation",
    "PlaneResult",
    "PolygonalChain",
    "connect",
    "evaluate_path",
    "evaluate_plane",
    "plot_paths",
    "plot_planes",
    "update_batch_norm",
]
