"""One network with a temperature against FGE with a temperature, at equal data and cost: what is left of the gain?

    cd benchmarks && python -m evidence.decisions --output=decisions.json
    cd benchmarks && python -m evidence.decisions --output=decisions.json --data_dir=DIR --tasks=cifar10

Both are trained on the same samples, for the same epochs. The first half of the validation samples fits the
temperature, the second one calibrates the sets and intervals, test samples only report. The record is written after
each run, and the same command goes on.
"""

import os
import types
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
from absl import app, flags
from keras import layers
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import keras_fge
from inputs import data
from inputs.networks import make_network
from study.presets import PRESETS
from study.progress import console
from study.records import opened_record, write_json
from study.training import default_jit_compile

FLAGS = flags.FLAGS
ALPHA = 0.1
STUDY = {  # The settings of `make study`; presets of `cifar.py` change them.
    **{"dataset": "fashion_subset", "image_size": None, "train_size": None, "transform": "none"},
    **{"network": "small_cnn", "width": 16, "epochs": 40, "batch_size": 64, "learning_rate": 0.05},
    **{"weight_decay": 3e-4, "fge_start_epoch": 28, "fge_cycle_epochs": 1},
    **{"fge_max_learning_rate": 0.05, "fge_min_learning_rate": 5e-4},
}


def fashion(seed):
    """The subset of Fashion-MNIST and the CNN of `make study`."""
    return images({}, seed)


def cifar10(seed):
    """CIFAR-10 as images in a folder, 5,000 of them, and the network of `--preset=small`."""
    return images(PRESETS["small"], seed)


def vgg16(seed):
    """CIFAR-10 as images in a folder, and the paper's network, less the images for validation: for a GPU."""
    return images(PRESETS["vgg16_folder"], seed)


def images(preset, seed):
    """The ensembles of both, and the validation and test data, with the settings of a preset of `cifar.py`."""
    settings = types.SimpleNamespace(**{**STUDY, **preset})
    loaded = data.load(settings.dataset, FLAGS.data_dir, settings.image_size, settings.train_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"width": settings.width} if settings.network.startswith("small_cnn") else {}

    def train(make_callbacks):
        keras.utils.set_random_seed(seed)
        shape, pixel = loaded.train[0].shape[1:], loaded.largest_pixel
        network = make_network(
            settings.network, shape, loaded.num_classes, settings.weight_decay, settings.transform, pixel, **options
        )
        optimizer = keras.optimizers.SGD(settings.learning_rate, momentum=0.9)
        network.compile(optimizer, loss, jit_compile=default_jit_compile())
        callbacks = make_callbacks()
        batches = keras_fge.Batches(*loaded.train, batch_size=settings.batch_size, seed=seed)
        network.fit(batches, epochs=settings.epochs, verbose=0, callbacks=callbacks)
        return network, callbacks[-1]

    steps = -(-len(loaded.train[0]) // settings.batch_size)
    rate, start = settings.learning_rate, settings.fge_start_epoch
    rates = settings.fge_max_learning_rate, settings.fge_min_learning_rate
    cycle = {"cycle_steps": 2 * round(settings.fge_cycle_epochs * steps / 2), "start_epoch": start}
    one, _ = train(lambda: [keras_fge.PaperTraining(rate, settings.epochs)])
    _, fge = train(
        lambda: [keras_fge.PaperTraining(rate, settings.epochs, until=start), keras_fge.FGE(*rates, **cycle)]
    )
    return keras_fge.Ensemble.of([one]), fge.ensemble(), loaded.validation, loaded.test


def table(x, y, make, rate, epochs, seed, stratify=None):
    """The ensembles of both, and the validation and test data, of a table."""
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=seed, stratify=stratify)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.4, random_state=seed)
    scaler = StandardScaler().fit(x)
    x, x_val, x_test = (scaler.transform(part).astype("float32") for part in (x, x_val, x_test))

    def train(callback):
        keras.utils.set_random_seed(seed)
        network = make()
        network.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])
        return network

    one = train(keras_fge.PaperTraining(rate, epochs))
    fge = keras_fge.FGE(3 * rate, 0.03 * rate, cycle_epochs=2, start_epoch=epochs // 2)
    train(fge)
    return keras_fge.Ensemble.of([one]), fge.ensemble(), (x_val, y_val), (x_test, y_test)


def breast_cancer(seed):
    """The network and settings of examples/tabular.py."""

    def make():
        hidden = [layers.Dense(64, "relu"), layers.Dropout(0.5), layers.Dense(64, "relu"), layers.Dropout(0.5)]
        network = keras.Sequential([keras.Input((30,)), *hidden, layers.Dense(1, "sigmoid")])
        network.compile(keras.optimizers.AdamW(0.002, weight_decay=0.1), "binary_crossentropy", jit_compile=False)
        return network

    x, y = datasets.load_breast_cancer(return_X_y=True)
    return table(x, y, make, 0.002, 20, seed, stratify=y)


def diabetes(seed):
    """The network and settings of examples/regression.py: a mean and a variance."""

    def make():
        network = keras.Sequential([keras.Input((10,)), layers.Dense(64, "relu"), layers.Dropout(0.2), layers.Dense(2)])
        optimizer = keras.optimizers.AdamW(0.003, weight_decay=0.1)
        network.compile(optimizer, keras_fge.gaussian_nll, jit_compile=False)
        return network

    x, y = datasets.load_diabetes(return_X_y=True)
    return table(x, ((y - y.mean()) / y.std()).astype("float32"), make, 0.003, 40, seed)


TASKS = {"fashion": fashion, "cifar10": cifar10, "vgg16": vgg16, "breast_cancer": breast_cancer, "diabetes": diabetes}


def measure(ensemble, validation, test):
    """Test metrics, with a temperature of one half of the validation data, and sets or intervals by the other."""
    half = len(validation[0]) // 2
    first, second = ((x[rows], y[rows]) for x, y in [validation] for rows in (slice(half), slice(half, None)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Of tables, the samples are too few to tell T well.
        calibrated = ensemble.calibrated(*first, batch_size=1000)
    before, after = (e.evaluate(*test, batch_size=1000) for e in (ensemble, calibrated))
    names = ("crps", "nll") if "crps" in after else ("nll", "ece")
    found = {name: after[name] for name in ("error", "mse") if name in after}
    found |= {name: before[name] for name in names} | {f"calibrated_{name}": after[name] for name in names}
    found |= {"temperature": calibrated.temperature, "members": len(ensemble)}
    found["aurc"] = calibrated.selective(*test, batch_size=1000)["aurc"]
    method = "scaled" if "crps" in after else "lac"
    coverage = calibrated.conformal(*second, ALPHA, method, batch_size=1000).evaluate(*test, batch_size=1000)
    found[f"{method}_coverage"] = coverage["coverage"]
    found[f"{method}_size"] = coverage["width" if method == "scaled" else "size"]
    return {name: float(value) for name, value in found.items()}


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=FLAGS.seed, runs=FLAGS.runs, alpha=ALPHA)
    record = opened_record(FLAGS.output, settings, runs={})
    for task in FLAGS.tasks:
        done = record["runs"].setdefault(task, {})
        for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.runs):
            if str(seed) not in done:
                one, fge, validation, test = TASKS[task](seed)
                done[str(seed)] = {"one network": measure(one, validation, test), "FGE": measure(fge, validation, test)}
                write_json(record, FLAGS.output)
                console.print(f"{task} {seed}: {done[str(seed)]}")
    console.print(f"Written: {FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/decisions.json", "Record to write.")
    flags.DEFINE_multi_enum("tasks", ["breast_cancer", "diabetes", "fashion"], list(TASKS), "Tasks to run.")
    flags.DEFINE_string("data_dir", None, "The folder of images, for cifar10 and vgg16.")
    flags.DEFINE_integer("seed", 0, "Seed of the first run; the next ones follow.")
    flags.DEFINE_integer("runs", 8, "Runs of each task.", lower_bound=1)
    app.run(main)
