"""The study of mean networks, on few images."""

import numpy as np

from conftest import SLOW_BUT_ON_TORCH
from evidence import means
from inputs.data import Dataset

pytestmark = SLOW_BUT_ON_TORCH


def test_each_kind_of_mean_is_measured(monkeypatch):
    """Means differ with the order of units; those of one network with itself would not."""
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (80, 8, 8, 1), "uint8"), np.arange(80) % 10
    monkeypatch.setattr(means, "MOST", 2)
    found = means.measure_group(Dataset("noise", part, part, part, 10), 2, 1, 0)
    assert list(found) == ["one network", "as they are", "aligned to the first", "aligned together", "ensemble"]
    values = [found[kind][2]["nll"] for kind in list(found)[1:]]
    assert np.isfinite(values).all() and len({round(value, 5) for value in values}) >= 3
