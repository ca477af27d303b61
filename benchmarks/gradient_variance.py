"""Measures whether several stratified t in each step make better curves at equal cost.

    python benchmarks/gradient_variance.py --output=gradient_variance.json

A step with K stratified t splits its batch into K parts, with part k at t ~ U[(k-1)/K, k/K]; K = 1 is the step of
`CurveModel`. All have the same mean gradient and see the same number of images. The program measures:

- relative_variance: E ||g - E g||^2 / ||E g||^2 of the gradient g of the free bend of a Bezier curve on digits, on the
  straight line, where training begins, and after training;
- relative_time: time of K compiled steps, each on a K-th of a batch of 128 images of CIFAR-10's shape, over that of one
  step on the whole batch;
- mean_loss: mean train loss over the curve after training with each K from the same start, for several seeds.
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
import keras_fge
from data import load
from networks import make_network
from progress import console
from records import new_record, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "results/gradient_variance.json", "Record to write.")
flags.DEFINE_integer("seed", 0, "Seed of everything.")
flags.DEFINE_integer("batch_size", 64, "Images per step.", lower_bound=4)
flags.DEFINE_integer("repeats", 400, "Gradients of each kind.", lower_bound=10)
flags.DEFINE_integer("epochs", 40, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("runs", 5, "Seeds of training with each K.", lower_bound=2)
STRATA = (1, 2, 4)


def compiled(model, learning_rate=0.02, momentum=0.9, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=momentum), loss, **arguments)
    return model


def free_bend(model):
    return [ops.convert_to_numpy(variable.value) for variable in model.trainable_variables]


def gradient(model, here, x, y, t):
    """The gradient of the free bend: the change that one step of plain SGD with learning rate 1 makes, negated."""
    model._sample_position = lambda: ops.convert_to_tensor(t, "float32")
    model.train_on_batch(x, y)
    after = free_bend(model)
    for variable, value in zip(model.trainable_variables, here):
        variable.assign(value)
    return np.concatenate([(a - b).ravel() for a, b in zip(here, after)]).astype("float64")


def stratified_gradient(model, here, x, y, strata, rng):
    parts = np.split(np.arange(len(x)), strata)
    positions = (np.arange(strata) + rng.random(strata)) / strata
    return np.mean([gradient(model, here, x[part], y[part], t) for part, t in zip(parts, positions)], axis=0)


def relative_variances(model, x, y, batch_size, repeats, rng):
    """`{K: E ||g - E g||^2 / ||E g||^2}`."""
    compiled(model, learning_rate=1.0, momentum=0.0, run_eagerly=True)
    here = free_bend(model)
    variances, means = {}, []
    for strata in STRATA:
        batches = [rng.choice(len(x), batch_size, replace=False) for _ in range(repeats)]
        gradients = [stratified_gradient(model, here, x[batch], y[batch], strata, rng) for batch in batches]
        variances[strata] = np.sum(np.var(gradients, axis=0, ddof=1))
        means.append(np.mean(gradients, axis=0))
    square = float(np.sum(np.mean(means, axis=0) ** 2))
    return {strata: float(variance / square) for strata, variance in variances.items()}


def mean_losses(networks, x, y, batch_size, epochs, runs):
    """`{K: [mean train loss over the curve, for each seed]}`, after SGD with momentum and the paper's learning rate."""
    losses = {strata: [] for strata in STRATA}
    for seed in range(runs):
        for strata in STRATA:
            rng = np.random.default_rng(seed)
            model = compiled(curves.connect(*networks), learning_rate=1.0, momentum=0.0, run_eagerly=True)
            velocity = [np.zeros(variable.shape) for variable in model.trainable_variables]
            for epoch in range(epochs):
                rate = float(ops.convert_to_numpy(keras_fge.piecewise_linear(epoch + 1, 0.02, epochs)))
                order = rng.permutation(len(x))[: len(x) // batch_size * batch_size]
                for batch in np.split(order, len(order) // batch_size):
                    here = free_bend(model)
                    step = stratified_gradient(model, here, x[batch], y[batch], strata, rng)
                    parts = np.split(step, np.cumsum([value.size for value in here])[:-1])
                    for k, (variable, value, part) in enumerate(zip(model.trainable_variables, here, parts)):
                        velocity[k] = 0.9 * velocity[k] - rate * part.reshape(value.shape)
                        variable.assign(value + velocity[k])
            losses[strata].append(curves.evaluate_path(model, (x, y), (x, y), num_points=21, verbose=False).mean())
    return losses


def relative_times(seed, turns=20):
    """`{K: time of K steps, each on a K-th of a batch, over that of one step on the whole}`, the fastest of `turns`."""
    networks = [make_network("small_cnn", (32, 32, 3), 10, 2e-3, width=32) for _ in range(2)]
    model = compiled(curves.connect(*networks, seed=seed))
    x, y = np.random.default_rng(seed).integers(0, 256, (128, 32, 32, 3), "uint8"), np.arange(128) % 10
    seconds = {strata: [] for strata in STRATA}
    for _ in range(turns + 1):
        for strata in STRATA:
            begin = time.perf_counter()
            for _ in range(strata):
                model.train_on_batch(x[: 128 // strata], y[: 128 // strata])
            seconds[strata].append(time.perf_counter() - begin)
    return {strata: min(values[1:]) / min(seconds[1][1:]) for strata, values in seconds.items()}


def main(_):
    data = load("digits")
    x, y = data.train
    keras.utils.set_random_seed(FLAGS.seed)
    rng = np.random.default_rng(FLAGS.seed)
    arguments = {"weight_decay": 2e-3, "largest_pixel": data.largest_pixel, "dropout": 0.0}
    networks = [compiled(make_network("small_cnn", x.shape[1:], 10, **arguments)) for _ in range(2)]
    for network in networks:
        network.fit(x, y, batch_size=25, epochs=FLAGS.epochs, verbose=0)
    record = new_record(
        types.SimpleNamespace(
            **{name: FLAGS[name].value for name in ("batch_size", "repeats", "epochs", "runs", "seed")}
        )
    )
    model = curves.connect(*networks, seed=FLAGS.seed)
    record["relative_variance"] = {
        "straight line": relative_variances(model, x, y, FLAGS.batch_size, FLAGS.repeats, rng)
    }
    model = compiled(curves.connect(*networks, seed=FLAGS.seed))
    model.fit(x, y, batch_size=25, epochs=FLAGS.epochs, verbose=0)
    record["relative_variance"]["trained curve"] = relative_variances(model, x, y, FLAGS.batch_size, FLAGS.repeats, rng)
    record["relative_time"] = relative_times(FLAGS.seed)
    record["mean_loss"] = mean_losses(networks, x, y, FLAGS.batch_size, FLAGS.epochs, FLAGS.runs)
    console.print({name: record[name] for name in ("relative_variance", "relative_time", "mean_loss")})
    os.makedirs(os.path.dirname(FLAGS.output) or ".", exist_ok=True)
    write_json(record, FLAGS.output)


if __name__ == "__main__":
    app.run(main)
