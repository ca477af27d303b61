"""A fair fight: FGE beside what else one can do with the training of one network, each tuned on validation images.

    cd benchmarks && python -m evidence.baselines --output=baselines                      # about 6 hours of one core
    cd benchmarks && python -m evidence.baselines --output=baselines --methods=FGE --methods=SSE

On the subset of Fashion-MNIST, with the small CNN, each method trains as long as one network of 40 epochs, or less. Its
settings are those of a grid, or some drawn at random from it: 16 for one network, FGE, SWA and SSE, 8 for the others.
On CIFAR-10 (JPEG), 5,000 images, one network, FGE, SWA and SSE have 8 each, at two rates (SSE's are higher, as they
fall to 0) and the same two weight decays, for 100 epochs (--task=cifar10 --data_dir=DIR --tuned_on=2). The best has the
least calibrated NLL on validation images (seeds 1000, ...). Fresh seeds at that setting are measured on test images.
Each method has a record in the folder, written after each run; the same command goes on, and several processes may
share the work. On JAX a run takes three quarters of its time on TensorFlow. SAM has a step of its own, for TensorFlow
alone.
"""

import functools
import os
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from absl import app, flags
from sklearn.metrics import roc_auc_score

from evidence.baseline_methods import TASKS
from inputs import data
from study.ensembles import all_metrics, disagreement
from study.progress import console
from study.records import opened_record, refuse_another
from study.search import search, summary

FLAGS = flags.FLAGS


def measured(members, x, y):
    """Error and NLL, also with a temperature; how well the confidence tells errors; error and disagreement of members.

    How well is the area under the ROC. Disagreement is the share of images on which two members differ, over all pairs.
    """
    each = np.asarray(members(x), "float64")
    predictions, classes = each.mean(axis=0), each.argmax(axis=2)
    wrong = np.argmax(predictions, axis=1) != y
    metrics = {
        **all_metrics(predictions, y),
        "auroc_of_errors": roc_auc_score(wrong, -predictions.max(axis=1)),
        "member_error": np.mean(classes != y),
        "disagreement": disagreement(classes),
    }
    return {name: float(value) for name, value in metrics.items()}


def trained_and_measured(method, images, part, arguments, seed):
    found = method(seed=seed, **arguments)
    data_of_part = images.validation if part == "tuning" else images.test
    return {name: {**measured(members, *data_of_part), "passes": passes} for name, (members, passes) in found.items()}


def file_of(name):
    return os.path.join(FLAGS.output, f"{name.replace(' ', '_').replace(',', '')}.json")


def main(_):
    task = TASKS[FLAGS.task]
    FLAGS.output = FLAGS.output or f"results/baselines{'' if FLAGS.task == 'fashion' else f'_{FLAGS.task}'}"
    images = data.load(**task.data, data_dir=FLAGS.data_dir)
    for name in FLAGS.methods or task.methods:
        if name not in task.methods:
            raise app.UsageError(f"--methods must be of {', '.join(task.methods)}. Received: {name}")
        function, tried = task.methods[name]
        method, path = functools.partial(function, task, images), file_of(name)
        settings = types.SimpleNamespace(output=path, seed=0, tuned_on=FLAGS.tuned_on, runs=FLAGS.runs)
        record = opened_record(path, settings, data=images.about(), tuning={}, best={}, runs={})
        refuse_another(path, record, data=images.about(), flags={**record["flags"], **vars(settings)})
        once = functools.partial(trained_and_measured, method, images)
        search(record, tried, once)
        for line in summary(record):
            console.print(line, markup=False)


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Folder of the records. Default: results/baselines, and of a task of its own.")
    flags.DEFINE_enum("task", "fashion", list(TASKS), "The data set, its network, and the methods compared there.")
    flags.DEFINE_string("data_dir", None, "The folder of images, for cifar10.")
    flags.DEFINE_multi_string("methods", None, "Methods to run. Default: all of the task.")
    flags.DEFINE_integer("tuned_on", 3, "Seeds of each setting, on validation images.", lower_bound=1)
    flags.DEFINE_integer("runs", 8, "Fresh seeds at the best setting, on test images.", lower_bound=1)
    app.run(main)
