"""`SWAG`: a Gaussian around the mean of the weights of a run, to draw networks from."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fge.core.arguments import as_integer, as_number
from keras_fge.core.batch_norm import check_can_be_estimated, update_batch_norm
from keras_fge.core.networks import clone, set_weights
from keras_fge.ensemble.ensemble import Ensemble
from keras_fge.run import Snapshot


class SWAG:
    """SWA-Gaussian: draws networks from a Gaussian that the members of a run span; several runs make MultiSWAG.

    For members w_1, ..., w_K of one run, in their order, element by element,

        mean_k = 1/k sum_{i <= k} w_i,    mean = mean_K
        variance = max(1/K sum_k w_k^2 - mean^2, 1e-30)
        D = the last R of the columns w_k - mean_k
        w ~ mean + scale (sqrt(variance) z_1 / sqrt(2) + D z_2 / sqrt(2 (R - 1))),    z_1, z_2 ~ N(0, 1)

    so the covariance is scale^2 / 2 times the diagonal plus the low-rank one. Of several runs, each sample first draws
    a run, all with the same probability. Only trained weights vary; others are those of the first member.

    Args:
        ensembles: An `Ensemble` of the members of one run, or a list of such, of one architecture.
        rank: R, at least 2 and at most K. Default: 20, or K if that is less.
        scale: Factor of the deviations. Default: 1.

    Raises:
        ValueError: if there are fewer than 2 members or than `rank`, or the ensembles do not fit together.

    Example:
        ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
        samples = keras_fge.SWAG(ensemble).sample(3, train=(x, y), seed=0)
        samples.evaluate(x_test, y_test)

    References:
        Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, NeurIPS 2019, section 3,
        https://arxiv.org/abs/1902.02476; Wilson and Izmailov, Bayesian Deep Learning and a Probabilistic Perspective
        of Generalization, NeurIPS 2020, https://arxiv.org/abs/2002.08791
    """

    def __init__(self, ensembles: Ensemble | Sequence[Ensemble], rank: int | None = None, scale: float = 1.0):
        runs = [ensembles] if isinstance(ensembles, Ensemble) else list(ensembles)
        if not runs or not all(isinstance(run, Ensemble) for run in runs):
            raise ValueError(f"`ensembles` must be an Ensemble, or a list of such. Received: {ensembles!r}")
        fewest = min(map(len, runs))
        rank = min(20, fewest) if rank is None else as_integer("rank", rank, least=2)
        if not 2 <= rank <= fewest:
            raise ValueError(f"`rank` must be from 2 to the number of members of a run, {fewest}. Received: {rank}")
        self.rank, self.scale = rank, as_number("scale", scale, least=0)
        self._ensemble = functools.reduce(Ensemble.__add__, runs)  # Raises an error, if they do not fit together.
        trained = {id(variable) for variable in self._ensemble.network.trainable_variables}
        self._varies = [id(variable) in trained for variable in self._ensemble.network.weights]
        self._others = self._ensemble.snapshots[0].weights
        self._gaussians = [self._gaussian(run) for run in runs]

    def _gaussian(self, run):
        """(mean, standard deviation, columns D) over the trained weights, end to end."""
        total, squares, columns = 0.0, 0.0, []
        for k, snapshot in enumerate(run.snapshots, 1):
            weights = self._flat(snapshot.weights)
            total, squares = total + weights, squares + weights**2
            columns = [*columns[-self.rank + 1 :], (weights - total / k).astype("float32")]
        mean = total / len(run)
        deviation = np.sqrt(np.maximum(squares / len(run) - mean**2, 1e-30))
        return mean, deviation.astype("float32"), columns

    def _flat(self, weights):
        arrays = [np.ravel(array) for array, varies in zip(weights, self._varies) if varies]
        return np.concatenate(arrays).astype("float64")

    def mean(self, run: int = 0) -> list[np.ndarray]:
        """The mean weights of a run, in the order of `keras.Model.get_weights`."""
        return self._as_weights(self._gaussians[run][0])

    def sample(self, num_samples: int, train: Any = None, batch_size: int = 128, seed: int = 0) -> Ensemble:
        """Networks drawn at random, as an `Ensemble`.

        Args:
            num_samples: How many.
            train: Training data: statistics of BatchNormalization are estimated anew for each network. Needed if the
                network has such layers.
            batch_size: Samples per batch, for arrays. Default: 128.
            seed: Seed of the random numbers. Default: 0.

        Raises:
            ValueError: if the network has BatchNormalization and `train` is missing.
        """
        num_samples, generator = as_integer("num_samples", num_samples), np.random.default_rng(seed)
        network = clone(self._ensemble.network)
        check_can_be_estimated(network, train)
        first, snapshots = self._ensemble, []
        for _ in range(num_samples):
            set_weights(network, self._draw(generator))
            if train is not None:
                update_batch_norm(network, train, batch_size)
            snapshots.append(Snapshot.of(network, like=first.snapshots[0]))
        return Ensemble(first.network, snapshots, first.from_logits, first.task)

    def _draw(self, generator):
        mean, deviation, columns = self._gaussians[generator.integers(len(self._gaussians))]
        change = deviation * generator.standard_normal(mean.shape) / np.sqrt(2)
        for column, z in zip(columns, generator.standard_normal(self.rank)):
            change += column * (z / np.sqrt(2 * (self.rank - 1)))
        return self._as_weights(mean + self.scale * change)

    def _as_weights(self, flat):
        weights, position = [], 0
        for array, varies in zip(self._others, self._varies):
            if varies:
                size = int(np.prod(array.shape))
                array = flat[position : position + size].reshape(array.shape).astype(array.dtype)
                position += size
            weights.append(array)
        return weights

    def __repr__(self) -> str:
        return f"SWAG({len(self._gaussians)} runs of '{self._ensemble.network.name}', rank={self.rank})"
