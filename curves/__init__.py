"""Curves of low loss between trained networks (mode connectivity), for Keras 3.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
NeurIPS 2018, https://arxiv.org/abs/1802.10026
"""

from curves.batch_norm import update_batch_norm
from curves.evaluate import PathResult, evaluate_path
from curves.layers import Curve, CurveBatchNormalization, CurveConv2D, CurveDense
from curves.model import CurveModel, connect
from curves.parametrization import Bezier, PolygonalChain
from curves.plots import plot_paths

__all__ = [
    "Bezier",
    "Curve",
    "CurveBatchNormalization",
    "CurveConv2D",
    "CurveDense",
    "CurveModel",
    "PathResult",
    "PolygonalChain",
    "connect",
    "evaluate_path",
    "plot_paths",
    "update_batch_norm",
]
