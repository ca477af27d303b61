"""The paper's row of ImageNet: five epochs of FGE from a pretrained ResNet-50; top-1 and top-5 error.

    cd benchmarks && python -m evidence.imagenet --data_dir=DIR --output=results/imagenet
    cd benchmarks && python -m evidence.imagenet --dataset=imagenet2012 --data_dir=TFDS_DIR --output=results/imagenet

DIR has train/<class>/* and val/<class>/*, the classes in the order of their names (n01440764, ...), as ImageNet is
commonly unpacked; otherwise it is prepared by tensorflow_datasets with file_format="array_record". Keras downloads the
weights. Photographs are decoded while the network trains, and the state is written every ten minutes: a run that was
killed goes on with the batches that are left, by the same command. Cycles have two epochs, from 1e-3 to 1e-5, as in the
paper; images are shifted and flipped where the paper's were cropped to random sizes. Temperatures come from photographs
of the training set that are kept back. --network=small shows on any folder that it runs. Nobody has run it in full.
"""

import functools
import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from keras import layers, ops

import keras_fge
from inputs import photos
from inputs.transforms import Transform
from keras_fge.core.temperature import with_temperature
from study.progress import console
from study.records import opened_record, refuse_another, write_json

FLAGS = flags.FLAGS
BATCH_SIZE, EPOCHS, CYCLE, RATES, DECAY = 256, 5, 2, (1e-3, 1e-5), 1e-4
MINUTES, BN_SAMPLES = 10, 50_000  # From one state to the next; for BatchNormalization of the mean.
PAPER = {"one network": 0.2387, "FGE": 0.2331}  # Top-1 errors, its table 2.


def resnet50(num_classes):
    inputs = keras.Input((224, 224, 3), dtype="uint8")
    # Its weights are for blue, green, red, less these means.
    transform = Transform([123.68, 116.779, 103.939], 1.0, padding=28, flip=True, seed=0)
    x = ops.flip(transform(inputs), axis=-1)
    backbone = keras.applications.ResNet50(weights="imagenet", classifier_activation=None)
    if num_classes != backbone.output.shape[-1]:
        raise app.UsageError(f"--network=resnet50 knows 1000 classes. Received: {num_classes}")
    return keras.Model(inputs, backbone(x))


def small(num_classes):
    """For tests: as many pixels, few weights."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Conv2D(8, 3, strides=2)(Transform(padding=4, flip=True, seed=0)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


NETWORKS = {"resnet50": (resnet50, 224), "small": (small, 32)}


def measured(ensemble, held_out, test):
    """Top-1 and top-5 error, NLL, and NLL with the temperature that fits photographs that were kept back."""
    batches, labels = keras_fge.Batches(*test, BATCH_SIZE), test[1]
    predicted = ensemble.predict(batches)
    ranks = np.argsort(-predicted, axis=1, kind="stable")[:, :5] == labels[:, None]
    found = {"top1": 1 - np.mean(ranks[:, 0]), "top5": 1 - np.mean(ranks.any(axis=1))}
    temperature = ensemble.calibrated(keras_fge.Batches(*held_out, BATCH_SIZE)).temperature
    warmed = with_temperature(predicted, temperature, False)  # Not by `predict`, which would read all once more.
    for name, values in (("nll", predicted), ("calibrated_nll", warmed)):
        found[name] = keras_fge.classification_metrics(values, labels)["nll"]
    return {name: float(value) for name, value in found.items()}


def train(network, data, folder):
    """FGE, which goes on where it was killed."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(RATES[0], momentum=0.9, weight_decay=DECAY), loss, metrics=["accuracy"])
    fge = keras_fge.FGE(*RATES, cycle_epochs=CYCLE, directory=folder, resume=True, every=MINUTES)
    batches = fge.batches(*data, BATCH_SIZE)
    network.fit(batches, epochs=FLAGS.epochs, shuffle=False, verbose=2, callbacks=[fge])
    return fge.ensemble()


def mean_of(ensemble, data):
    """The network with the mean of the weights; some of the data are enough for BatchNormalization."""
    some = photos.split(*data, min(BN_SAMPLES, len(data[1]) // 2))[1]
    mean = ensemble.average_weights(keras_fge.Batches(*some, BATCH_SIZE))
    return keras_fge.Ensemble.of([mean], from_logits=True)


def main(_):
    output, (make, size) = pathlib.Path(FLAGS.output), NETWORKS[FLAGS.network]
    is_folder = FLAGS.dataset is None
    load = photos.of_folder if is_folder else lambda *rest: photos.of_tfds(FLAGS.dataset, *rest)
    data, num_classes = load(FLAGS.data_dir, size)
    train_data, held_out = photos.split(*data["train"], FLAGS.held_out)
    path = output / "record.json"
    settings = types.SimpleNamespace(output=str(path), network=FLAGS.network, epochs=FLAGS.epochs, seed=0)
    about = {"train": len(train_data[1]), "held_out": len(held_out[1]), "test": len(data["val"][1])}
    record = opened_record(path, settings, data=about, paper=PAPER, errors={})
    refuse_another(path, record, data=about, flags={**record["flags"], **vars(settings)})
    keras.utils.set_random_seed(0)
    network = make(num_classes)

    def note(name, ensemble_of):
        if name not in record["errors"]:
            record["errors"][name] = found = measured(ensemble_of(), held_out, data["val"])
            write_json(record, path)
            console.print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()))

    note("one network", lambda: keras_fge.Ensemble.of([network], from_logits=True))
    ensemble = train(network, train_data, output / "checkpoints" / "fge")
    for index in range(len(ensemble)):
        note(f"member {index + 1}", functools.partial(ensemble.__getitem__, slice(index, index + 1)))
    note("FGE", lambda: ensemble)
    note("mean of the weights", lambda: mean_of(ensemble, train_data))
    console.print(f"Written: {path}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "results/imagenet", "Folder of the record, and of what is trained.")
    flags.DEFINE_string("data_dir", None, "Folder of the photographs, or of tensorflow_datasets.")
    flags.DEFINE_string("dataset", None, "Name in tensorflow_datasets, such as imagenet2012. Default: a folder.")
    flags.DEFINE_enum("network", "resnet50", list(NETWORKS), "What is trained.")
    flags.DEFINE_integer("epochs", EPOCHS, "Epochs of FGE.", lower_bound=1)
    flags.DEFINE_integer("held_out", 10_000, "Photographs of the training set for temperatures.", lower_bound=1)
    app.run(main)
