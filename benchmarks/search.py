"""The search for settings: the same number of them for each method, on validation images, with seeds of its own.

The validation images take the place of the test images, which a search never sees.
"""

import dataclasses
import os
import types

from ensembles import run_fge, run_ind, run_sse
from presets import SEARCHES
from units import Unit

SEEDS = (1000,)  # Not one of the reports.
RUNS = {"ind": run_ind, "sse": run_sse, "fge": run_fge}


def search(study):
    """One run of each method for each of its settings and each seed."""
    settings = SEARCHES[study.settings.preset]

    def measure(study, method, name, seed):
        chosen = variant(study, next(setting for setting in settings[method] if text(setting) == name))
        return RUNS[method](chosen, seed, f"{method}_{name}")

    keys = [(method, text(setting), seed) for seed in SEEDS for method in RUNS for setting in settings[method]]
    return [Unit("search", key, measure) for key in keys]


def text(setting):
    """A setting in one word: "epochs=50,weight_decay=0.004"."""
    return ",".join(f"{name}={value}" for name, value in setting.items())


def variant(study, setting):
    """The study with other flags, on validation images.

    Networks that are trained in the same way share a folder of checkpoints, so that FGE branches off Ind.
    """
    training = {name: value for name, value in setting.items() if not name.startswith(("fge", "sse"))}
    folder = os.path.join(study.settings.output_dir, "checkpoints", text(training) or "preset")
    settings = types.SimpleNamespace(
        **{**vars(study.settings), **setting, "output_dir": folder, "steps_per_execution": 1}
    )
    data = dataclasses.replace(study.data, validation=None, test=study.data.validation)
    return dataclasses.replace(study, settings=settings, data=data)
