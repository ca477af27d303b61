"""The methods that the study of fine-tuning compares, on heads, whose features are made up."""

import functools
import json
import warnings

import numpy as np

from conftest import SLOW_BUT_ON_TORCH
from evidence import finetuning
from evidence.finetuning_methods import WAYS, Setup

pytestmark = SLOW_BUT_ON_TORCH
EPOCHS = {"independent": 1, "StarSSE": 4}  # Of others: 2.


def check_methods(setup, methods):
    """Each method trains, and all that it is measured by is a number. Returns what was found last."""
    for name, (method, tried) in methods.items():
        for of, (ensemble, trainings) in method(setup, 0, **{**tried[0], "epochs": EPOCHS.get(name, 2)}).items():
            with warnings.catch_warnings(action="ignore"):  # So few samples tell no temperature.
                found = finetuning.measured(setup, "runs", ensemble, trainings)
            json.dumps(found, allow_nan=False)
            assert 0 <= found["error"] <= 1 and found["members"] == len(ensemble) and found["trainings"] >= 1
            assert found["calibrated_nll"] > 0 and 1 <= found["set_size"] <= 3, of
    return found


def test_each_method_trains_a_head_and_is_measured():
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(count, 6)).astype("float32"), np.arange(count) % 3) for count in (48, 30, 30)]
    foreign = rng.normal(size=(20, 6)).astype("float32")
    setup = Setup(functools.partial(finetuning.new_head, 6, 3), *parts, foreign, batch_size=8)
    assert check_methods(setup, WAYS["head"])["bytes_a_member"] == 4 * (6 * 3 + 3)
