"""What size costs: peak memory, growth with bends, points, members and weights, and the time to start."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

import keras
import numpy as np

import curves
import keras_fge
from speed.evaluation import curve_and_data, slightly_different
from speed.training import callbacks_of_fge, compiled, images, network
from speed.turns import compared, one_epoch, spread, take_turns

BENCHMARKS = pathlib.Path(__file__).parents[1]


def memory(name, settings):
    """Peak memory of training and predicting, each in a process of its own, above that of one which only imports."""
    cases = ["nothing", "plain", "curve of 3", "FGE of 10, folder", "FGE of 50, folder"]
    cases += [f"Ensemble of {count}, folder" for count in (2, 10, 50)]
    megabytes = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            arguments = json.dumps({**vars(settings), "case": case, "network": name, "folder": folder})
            done = subprocess.run(
                [sys.executable, "-m", "speed.size", arguments],
                cwd=BENCHMARKS,
                capture_output=True,
                text=True,
                check=True,
            )
            megabytes[case] = float(done.stdout.splitlines()[-1])
    own = megabytes.pop("nothing")
    weights = network(name, settings).count_params() * 4 / 2**20
    return {"megabytes": {"weights": weights, **{case: peak - own for case, peak in megabytes.items()}}, "ratios": {}}


def _peak(settings):
    """Does one of the cases of `memory`, and returns the peak memory of this process in megabytes."""
    kind, _, rest = settings.case.partition(" of ")
    count = int(rest.partition(",")[0] or 0)
    members = f"{settings.folder}/members_of_50"
    if kind in ("plain", "curve", "FGE"):
        ends = [network(settings.network, settings) for _ in range(2)]
        model = compiled(curves.connect(*ends, seed=0), settings) if kind == "curve" else ends[0]
        folder = f"{settings.folder}/members_of_{count}"
        callbacks = callbacks_of_fge(cycle_steps=2, directory=folder) if kind == "FGE" else []
        settings.batch_size = 8 if kind == "FGE" else settings.batch_size  # Members are of the same size.
        data = images(settings, 2 * count if kind == "FGE" else 4)
        model.fit(*data, batch_size=settings.batch_size, verbose=0, callbacks=callbacks)
    elif kind == "Ensemble":
        keras_fge.Ensemble.load(members)[:count].predict(images(settings, 2)[0], settings.batch_size)
    with open("/proc/self/status") as file:  # Linux; `getrusage` would hand on the peak of the parent process.
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def growth(name, settings):
    """Steps against bends, paths against points, ensembles against members, and steps against the weights."""
    batch_size = settings.batch_size
    ends = [network(name, settings) for _ in range(2)]
    data = images(settings, settings.steps or 4)
    parts = {}
    models = {"1": ends[0]}
    for bends in range(2, 10):
        line = curves.Bezier(bends)  # With two bends, both are trained: else there would be nothing to train.
        free = {"fix_start": bends > 2, "fix_end": bends > 2}
        models[str(bends)] = compiled(curves.connect(*ends, line, seed=settings.seed, **free), settings)
    parts["bends"] = {n: one_epoch(model, *data, batch_size=batch_size) for n, model in models.items()}
    model, train, test = curve_and_data(name, settings)

    def path(points):
        return lambda: curves.evaluate_path(
            model, train, test, points, batch_size=batch_size, line=False, verbose=False
        )

    parts["points"] = {str(n): path(n) for n in (3, 7, 13, 25)}
    ensembles = {n: keras_fge.Ensemble(ends[0], slightly_different(ends[0], n), True) for n in (1, 2, 5, 10, 20, 50)}
    parts["members"] = {
        str(n): (lambda e=ensemble: e.predict(test[0], batch_size)) for n, ensemble in ensembles.items()
    }
    result = {part: compared(take_turns(settings.turns, works), {}) for part, works in parts.items()}
    works, references = {}, {}
    small = types.SimpleNamespace(**{**vars(settings), "batch_size": 32})
    for width in (32, 100, 178, 320, 560):
        ends = [network("small_cnn", small, size=8, width=width) for _ in range(2)]
        weights = str(ends[0].count_params())
        for kind, model in (("plain", ends[0]), ("curve", compiled(curves.connect(*ends, seed=0), small))):
            works[f"{kind} {weights}"] = one_epoch(model, *images(small, 4, size=8), batch_size=32)
        references[f"curve {weights}"] = f"plain {weights}"
    result["weights"] = compared(take_turns(settings.turns, works), references)
    return {"parts": result, "ratios": result["weights"]["ratios"]}


IMPORTS = {
    "keras": "import keras",
    "keras, keras_fge": "import keras, keras_fge",
    "keras, curves": "import keras, curves",
    "keras, keras_fge, curves": "import keras, keras_fge, curves",
}


def startup(_, settings):
    """Seconds until Keras, and our packages beside it, are imported, and until `cifar.py --help` answers."""
    commands = {name: [sys.executable, "-c", line] for name, line in IMPORTS.items()}
    commands["cifar.py --help"] = [sys.executable, BENCHMARKS / "cifar.py", "--help"]
    seconds = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        # As on a user's machine, where the first import leaves the compiled modules for all others.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        for _ in range(settings.turns + 1):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command, env=environment, capture_output=True, check=False)  # absl ends its help with 1.
                seconds[name].append(time.perf_counter() - begin)
    seconds = {name: values[1:] for name, values in seconds.items()}
    beyond = {name: np.subtract(values, seconds["keras"]) for name, values in seconds.items() if "," in name}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "beyond_keras": {name: spread(values) for name, values in beyond.items()},
        "ratios": {},
    }


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    print(_peak(types.SimpleNamespace(**json.loads(sys.argv[1]))))
