"""Bezier against de Casteljau, the chain against np.interp, velocities against differences."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import curves
from conftest import to_numpy

CURVES = [curve(n) for curve in (curves.Bezier, curves.PolygonalChain) for n in (2, 3, 4, 7)]
positions = st.floats(0, 1, width=32)


def de_casteljau(points, t):
    while len(points) > 1:
        points = [(1 - t) * a + t * b for a, b in itertools.pairwise(points)]
    return points[0]


def point(curve, bends, t):
    return to_numpy(curve.coefficients(t)).astype("float64") @ bends


@pytest.mark.parametrize("num_bends", [2, 3, 4, 7])
@settings(max_examples=25, deadline=None)
@given(t=positions)
def test_against_independent_constructions(num_bends, t):
    bends = np.random.default_rng(num_bends).normal(size=num_bends)
    assert point(curves.Bezier(num_bends), bends, t) == pytest.approx(de_casteljau(list(bends), t), abs=1e-5)
    interpolated = np.interp(t, np.linspace(0, 1, num_bends), bends)
    assert point(curves.PolygonalChain(num_bends), bends, t) == pytest.approx(interpolated, abs=1e-5)


@pytest.mark.parametrize("curve", CURVES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(t=positions)
def test_coefficients_are_a_partition_of_one(curve, t):
    coefficients = to_numpy(curve.coefficients(t))
    assert coefficients.shape == (curve.num_bends,) and coefficients.dtype == "float32"
    assert np.all(coefficients >= 0)
    assert np.sum(coefficients) == pytest.approx(1, abs=1e-6)
    assert coefficients == pytest.approx(to_numpy(curve.coefficients(1 - t))[::-1], abs=1e-5)


@pytest.mark.parametrize("curve", CURVES, ids=repr)
def test_ends_are_exact(curve):
    first, last = np.eye(curve.num_bends)[[0, -1]]
    assert np.array_equal(to_numpy(curve.coefficients(0.0)), first)
    assert np.array_equal(to_numpy(curve.coefficients(1.0)), last)


@pytest.mark.parametrize("curve", CURVES, ids=repr)
def test_velocity_is_the_derivative(curve):
    h = 1e-3
    for t in (0.0, 0.13, 0.4, 0.77, 1.0):
        low, high = (t, t + h) if t < 1 else (t - h, t)  # At a corner of the chain: to the right of it.
        difference = (to_numpy(curve.coefficients(high)) - to_numpy(curve.coefficients(low))) / (high - low)
        assert to_numpy(curve.velocity(t)) == pytest.approx(difference, abs=5e-2)
        assert np.sum(to_numpy(curve.velocity(t))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("curve", CURVES, ids=repr)
def test_serialization_and_identity(curve):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(curve))
    assert copy == curve and hash(copy) == hash(curve) and copy is not curve
    assert curve != curves.Bezier(9)


@pytest.mark.parametrize("num_bends", [1, 0, -3, 2.5, "3", None, True])
@pytest.mark.parametrize("kind", [curves.Bezier, curves.PolygonalChain])
def test_bad_num_bends(kind, num_bends):
    with pytest.raises(ValueError, match="`num_bends` must be an integer of at least 2"):
        kind(num_bends)


@pytest.mark.parametrize("t", [-0.01, 1.5, float("nan"), np.float32(2)])
@pytest.mark.parametrize("method", ["coefficients", "velocity"])
def test_position_outside_the_curve(method, t):
    for curve in (curves.Bezier(3), curves.PolygonalChain(3)):
        with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\]"):
            getattr(curve, method)(t)
