"""`sample_subspace`: networks drawn from the posterior in the subspace that the bends of a trained curve span."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from curves.geometry import gram_of_differences
from curves.measuring import Meter, Points
from curves.model import CurveModel
from keras_fge import Ensemble, Snapshot
from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.compile_as import compile_as
from keras_fge.core.compiled import compiled_outputs
from keras_fge.core.data import check_data
from keras_fge.core.files import checksum_of_arrays
from keras_fge.core.networks import clone, locked, read, set_weights


def sample_subspace(
    model: CurveModel,
    train: Any,
    num_samples: int,
    temperature: float = 1.0,
    *,
    prior_scale: float = 1.0,
    burn_in: int = 10,
    batch_size: int = 128,
    file: str | os.PathLike | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> Ensemble:
    """Networks from the tempered posterior in the subspace of a curve or simplex, by elliptical slice sampling.

    With the mean m of the bends, an orthonormal basis E of the directions that they span around it, and the root mean
    square r of their distances from it,

        w(z) = m + prior_scale r E z,   z ~ N(0, I),   p(z | data) ~ N(z; 0, I) p(data | w(z))^(1 / temperature)

    where log p(data | w) = -N NLL on `train`. A posterior over so few numbers is narrow: with the temperature, samples
    spread as far as the loss stays low; choose it by validation NLL. The walk begins at the middle of the curve. At
    each position, statistics of BatchNormalization are estimated anew. One step takes a few passes over `train`.

    Args:
        model: A compiled `CurveModel` of one `Curve`, whose network classifies, with one output.
        train: Arrays `(x, y)`.
        num_samples: Number of networks to draw, one a step.
        temperature: T, positive. Default: 1, the posterior.
        prior_scale: Standard deviation of the prior, in units of r. Default: 1.
        burn_in: Steps before the first sample. Default: 10.
        batch_size: Samples per batch. Default: 128.
        file: A .npz file in which each step is stored at once; if it exists, the walk goes on. Default: none.
        seed: Seed. Default: 0.
        verbose: Whether to show a progress bar.

    Returns:
        A `keras_fge.Ensemble` of `num_samples` networks.

    Raises:
        ValueError: if the model is not a compiled `CurveModel` of one `Curve`, its network is no classifier with one
            output, the bends are all equal, or `file` holds something else.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        curve.fit(x, y, epochs=1, verbose=0)
        samples = curves.sample_subspace(curve, (x, y), 2, temperature=10.0, burn_in=1, verbose=False)
        samples.evaluate(x_test, y_test)

    References:
        Izmailov et al., Subspace Inference for Bayesian Deep Learning, UAI 2019, https://arxiv.org/abs/1907.07504;
        Murray et al., Elliptical slice sampling, AISTATS 2010, https://arxiv.org/abs/1001.0175
    """
    if not isinstance(model, CurveModel):
        raise ValueError(f"`model` must be a curves.CurveModel. Received: model={model!r}")
    if not model.compiled:
        raise ValueError("`model` must be compiled with a loss, which tells what the network outputs.")
    check_data("train", train)
    if not isinstance(train, tuple) or len(train) != 2:
        raise ValueError("`train` must be arrays (x, y): a walk needs the same samples at each step.")
    if not as_number("temperature", temperature) > 0 or not as_number("prior_scale", prior_scale) > 0:
        raise ValueError(f"`temperature` and `prior_scale` must be positive. Received: {temperature}, {prior_scale}")
    seed = as_integer("seed", seed, least=0)
    num_samples, burn_in = as_integer("num_samples", num_samples), as_integer("burn_in", burn_in, least=0)
    with locked(model):
        posterior = _Posterior(model, train, temperature, prior_scale, as_integer("batch_size", batch_size))
        settings = {"temperature": temperature, "prior_scale": prior_scale, "seed": seed, **posterior.settings}
        steps = burn_in + num_samples
        walk = Points(file, "walk", settings, steps)

        def measure(step):
            """(row, carry) of one step of the walk: the position, and its log-likelihood."""
            if walk.rows:
                *numbers, value = walk.rows[-1].values()
                z = np.array(numbers)
            else:
                z, value = posterior.start, posterior(posterior.start)
            z, value = elliptical_slice(z, posterior, np.random.default_rng([seed, step]), value)
            return {**{f"z{k}": float(number) for k, number in enumerate(z)}, "log_likelihood": float(value)}, {}

        walk.measure(posterior.network, range(steps), measure, verbose)
        return posterior.ensemble([np.array(list(row.values())[:-1]) for row in walk.rows[burn_in:steps]])


def elliptical_slice(
    z: np.ndarray,
    log_likelihood: Callable[[np.ndarray], float],
    rng: np.random.Generator,
    value: float,
) -> tuple[np.ndarray, float]:
    """One step of elliptical slice sampling, for the prior N(0, I): returns the next (z, log_likelihood(z)).

    On the ellipse z cos(a) + v sin(a), v ~ N(0, I), it draws angles from an interval that shrinks towards 0 until the
    likelihood is above a random level under that of z.

    Args:
        z: The position.
        log_likelihood: The log-likelihood of a position.
        rng: Source of random numbers.
        value: `log_likelihood(z)`.

    References:
        Murray et al., AISTATS 2010, figure 2.
    """
    direction = rng.standard_normal(z.shape)
    level = value + np.log1p(-rng.random())
    angle = rng.uniform(0, 2 * np.pi)
    low, high = angle - 2 * np.pi, angle
    while True:
        candidate = z * np.cos(angle) + direction * np.sin(angle)
        if (new := log_likelihood(candidate)) > level or high - low < 1e-9:
            return candidate, new
        low, high = (angle, high) if angle < 0 else (low, angle)
        angle = rng.uniform(low, high)


class _Posterior:
    """The network at a position z of the subspace, and log p(data | w(z)) / temperature."""

    def __init__(self, model, train, temperature, prior_scale, batch_size):
        curve = model.whole_network("sample_subspace")
        self.model, self.labels, self.temperature = model, train[1], temperature
        self.bends = [[read(variable) for variable in slot] for slot in zip(*curve.bends)]
        count = curve.curve.num_bends
        gram = gram_of_differences(curve.bends)
        center = np.eye(count) - 1 / count
        values, vectors = np.linalg.eigh(center @ gram @ center)
        kept = values > 1e-10 * values.max()
        if not values.max() > 0:
            raise ValueError("All bends of `model` are equal: they span no subspace.")
        scale = prior_scale * np.sqrt(np.trace(center @ gram @ center) / count)
        # w(z) = sum_i a_i w_i with a = 1 / count + basis z.
        self.basis = scale * vectors[:, kept] / np.sqrt(values[kept])
        middle = keras.ops.convert_to_numpy(curve.curve.coefficients(curve.curve.middle)).astype("float64")
        self.start = np.linalg.lstsq(self.basis, middle - 1 / count, rcond=None)[0]
        self.network = clone(curve.layer)
        set_weights(self.network, model.weights_at(curve.curve.middle))
        self.meter = Meter(self.network, train, None, batch_size=batch_size)
        outputs = self.meter.predictions("train")
        self.outputs = compiled_outputs(model, outputs[0])
        if len(outputs) > 1 or self.outputs.each(1)[0].task != "classification":
            raise ValueError("`sample_subspace` needs a network that classifies, with one output.")
        everything = [array for slot in self.bends for array in slot]
        self.settings = {
            "batch_size": batch_size,
            "loss": str((model.get_compile_config() or {}).get("loss")),
            "bends": checksum_of_arrays(everything),
            "train": checksum_of_arrays(keras.tree.flatten(train)),
            "middle": [round(float(number), 6) for number in self.start],
        }

    def put(self, z):
        """Gives the network the weights at z."""
        shares = 1 / len(self.basis) + self.basis @ z
        for variable, slot in zip(self.network.trainable_variables, self.bends):
            total = sum(share * array.astype("float64") for share, array in zip(shares, slot))
            variable.assign(total.astype("float32"))
        self.meter.estimate()

    def __call__(self, z):
        self.put(z)
        outputs = self.outputs.probabilities(self.meter.predictions("train")[0])
        return -len(outputs) * self.outputs.loss(self.network, outputs, self.labels) / self.temperature

    def ensemble(self, positions):
        snapshots: list[Snapshot] = []
        for z in positions:
            self.put(z)
            snapshots.append(Snapshot.of(self.network, like=snapshots[0] if snapshots else None))
        return Ensemble(compile_as(self.network, self.model), snapshots, self.outputs.from_logits, self.outputs.task)
