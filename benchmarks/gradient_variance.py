"""Would several stratified t in each step lower the variance of a curve's gradient, at equal cost?

    python benchmarks/gradient_variance.py --output=gradient_variance.json

A step with K stratified t splits its batch into K parts, with part k at t ~ U[(k-1)/K, k/K]; K = 1 is the step of
`CurveModel`. All have the same mean and see the same number of images. Measured on digits, on the straight line where
the training of a Bezier curve begins, and after it: the variance of the gradient of the free bend, E ||g - E g||^2,
over the square of its mean, ||E g||^2; and the time of K compiled steps on a K-th of the batch each, over that of one.
"""

import os
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from keras import ops

import curves
from data import load_digits
from networks import small_cnn
from report import console, new_record, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "results/gradient_variance.json", "Record to write.")
flags.DEFINE_integer("seed", 0, "Seed of everything.")
flags.DEFINE_integer("batch_size", 64, "Images per step.", lower_bound=4)
flags.DEFINE_integer("repeats", 400, "Gradients of each kind.", lower_bound=10)
flags.DEFINE_integer("epochs", 40, "Epochs of each training.", lower_bound=1)
STRATA = (1, 2, 4)


def compiled(model, learning_rate=0.02, momentum=0.9, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=momentum), loss, **arguments)
    return model


def free_bend(model):
    return [ops.convert_to_numpy(variable.value) for variable in model.trainable_variables]


def gradient(model, here, x, y, t):
    """Of the free bend, as the change that one step of plain SGD with learning rate 1 makes."""
    model._sample_position = lambda: ops.convert_to_tensor(t, "float32")
    model.train_on_batch(x, y)
    after = free_bend(model)
    for variable, value in zip(model.trainable_variables, here):
        variable.assign(value)
    return np.concatenate([(a - b).ravel() for a, b in zip(here, after)]).astype("float64")


def relative_variances(model, x, y, batch_size, repeats, rng):
    """`{K: E ||g - E g||^2 / ||E g||^2}`."""
    compiled(model, learning_rate=1.0, momentum=0.0, run_eagerly=True)
    here = free_bend(model)
    variances, means = {}, []
    for strata in STRATA:
        gradients = []
        for _ in range(repeats):
            parts = np.split(rng.choice(len(x), batch_size, replace=False), strata)
            positions = (np.arange(strata) + rng.random(strata)) / strata
            gradients.append(np.mean([gradient(model, here, x[p], y[p], t) for p, t in zip(parts, positions)], axis=0))
        variances[strata] = np.sum(np.var(gradients, axis=0, ddof=1))
        means.append(np.mean(gradients, axis=0))
    square = float(np.sum(np.mean(means, axis=0) ** 2))
    return {strata: float(variance / square) for strata, variance in variances.items()}


def relative_times(model, x, y, batch_size, turns=50):
    """Fastest of `turns` of K steps on a K-th of the batch, over that of one step."""
    compiled(model)
    seconds = {strata: [] for strata in STRATA}
    for _ in range(turns + 1):
        for strata in STRATA:
            begin = time.perf_counter()
            for _ in range(strata):
                model.train_on_batch(x[: batch_size // strata], y[: batch_size // strata])
            seconds[strata].append(time.perf_counter() - begin)
    return {strata: min(values[1:]) / min(seconds[1][1:]) for strata, values in seconds.items()}


def main(_):
    data = load_digits()
    x, y = data.train
    keras.utils.set_random_seed(FLAGS.seed)
    rng = np.random.default_rng(FLAGS.seed)
    networks = [compiled(small_cnn(x.shape[1:], data.num_classes, 2e-3, dropout=0.0)) for _ in range(2)]
    for network in networks:
        network.fit(x, y, batch_size=25, epochs=FLAGS.epochs, verbose=0)
    record = new_record(
        types.SimpleNamespace(**{name: FLAGS[name].value for name in ("batch_size", "repeats", "epochs", "seed")})
    )
    model = curves.connect(*networks, seed=FLAGS.seed)
    record["relative_variance"] = {
        "straight line": relative_variances(model, x, y, FLAGS.batch_size, FLAGS.repeats, rng)
    }
    model = compiled(curves.connect(*networks, seed=FLAGS.seed))
    model.fit(x, y, batch_size=25, epochs=FLAGS.epochs, verbose=0)
    record["relative_variance"]["trained curve"] = relative_variances(model, x, y, FLAGS.batch_size, FLAGS.repeats, rng)
    record["relative_time"] = relative_times(curves.connect(*networks, seed=FLAGS.seed), x, y, FLAGS.batch_size)
    console.print(record)
    os.makedirs(os.path.dirname(FLAGS.output) or ".", exist_ok=True)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
