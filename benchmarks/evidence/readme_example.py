"""Runs the examples of the README unchanged, and compares FGE with an ordinary network of the same cost.

    cd benchmarks && python -m evidence.readme_example --output=readme_example.json

The ordinary network has the same layers, seed and epochs, and the paper's learning rate and step, `PaperTraining`. The
record has what the first run prints; beside it stands the picture of the curve, path.png.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import tempfile
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_fge
from report.comparisons import standard_error
from study.progress import console
from study.records import new_record, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "../results/readme_example.json", "Record to write.")
flags.DEFINE_integer("seed", 0, "Seed of the first run; the next ones follow.")
flags.DEFINE_integer("runs", 10, "Number of runs.", lower_bound=2)

README = pathlib.Path(__file__).parents[2] / "README.md"


def execute(code, seed):
    """The names that an example makes, in a folder of its own, and what it prints."""
    keras.utils.set_random_seed(seed)
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README example", "exec"), names)
    return names, printed.getvalue()


def run(code, seed):
    """Test metrics of mean member, ensemble, averaged weights and an ordinary network; members; what it prints."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names, printed = execute(code, seed)
        ensemble, test = names["fge"].ensemble(), names["test"]
        members = [ensemble[k : k + 1].evaluate(*test, calibrate=True) for k in range(len(ensemble))]
        results = {
            "member": {key: float(np.mean([member[key] for member in members])) for key in members[0]},
            "ensemble": ensemble.evaluate(*test, calibrate=True),
            "averaged weights": measured(ensemble.average_weights(), *test),
        }
    keras.utils.set_random_seed(seed)
    ordinary = keras.models.clone_model(names["model"])
    ordinary.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    paper = keras_fge.PaperTraining(0.05, epochs=60)
    ordinary.fit(*names["train"], batch_size=32, epochs=60, verbose=0, callbacks=[paper])
    results["ordinary network"] = measured(ordinary, *test)
    return results, len(ensemble), printed


def measured(network, x, y):
    """Test metrics, also with a temperature."""
    return keras_fge.Ensemble.of([network]).evaluate(x, y, calibrate=True)


def main(_):
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)})
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    code = next(example for example in examples if "keras_fge.FGE" in example)
    runs, members, printed = zip(*[run(code, seed) for seed in range(settings.seed, settings.seed + settings.runs)])
    record = new_record(settings)
    record["members"], record["printed"] = members[0], printed[0]
    record["runs"] = runs
    record["summary"] = {
        name: {
            metric: {"mean": float(np.mean(values)), "se": standard_error(np.array(values)), "n": len(values)}
            for metric in runs[0][name]
            for values in [[run[name][metric] for run in runs]]
        }
        for name in runs[0]
    }
    for name, metrics in record["summary"].items():
        error, nll = metrics["error"], metrics["nll"]
        console.print(
            f"{name}: error {100 * error['mean']:.2f} ± {100 * error['se']:.2f} %, "
            f"NLL {nll['mean']:.3f} ± {nll['se']:.3f}"
        )
    write_json(record, settings.output)
    curve = next(example for example in examples if "curves.connect" in example)
    output = os.path.abspath(settings.output)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        execute(curve, settings.seed)
        shutil.copy("path.png", os.path.join(os.path.dirname(output), "path.png"))


if __name__ == "__main__":
    app.run(main)
