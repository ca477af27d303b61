"""What the network is worth along a curve: losses and errors at evenly spaced t."""

import dataclasses
import os

import keras
import numpy as np

from curves.batch_norm import BatchNormEstimator, restored_on_error
from curves.model import CurveModel
from curves.networks import read

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy")


@dataclasses.dataclass(frozen=True)
class PathResult:
    """Measurements along a curve, at n positions.

    Attributes:
        t: Positions in [0, 1], shape `(n,)`.
        distance: Arc length from phi(0) to phi(t), in the units of the weights, shape `(n,)`.
        straight_distance: ||phi(1) - phi(0)||.
        train, test: Dictionaries of arrays of shape `(n,)`: "loss" (the compiled loss with all regularizers), "nll"
            (the loss without weight regularizers and decay: the negative log-likelihood where the loss is a
            cross-entropy), "error" (1 - accuracy, a fraction, if an accuracy was compiled) and every compiled metric
            under its own name.
    """

    t: np.ndarray
    distance: np.ndarray
    straight_distance: float
    train: dict
    test: dict

    @property
    def arc_length(self):
        """sum_j ||w(t_{j+1}) - w(t_j)|| over the n positions."""
        return float(self.distance[-1])

    def barrier(self, split="train", quantity="loss"):
        """The largest value along the path minus the larger one of the two endpoints; 0 if no point lies higher."""
        values = getattr(self, split)[quantity]
        return float(np.max(values) - max(values[0], values[-1]))

    def summary(self):
        """Minimum, maximum and barrier of each quantity and the lengths, as a flat dictionary of floats."""
        summary = {}
        for split in ("train", "test"):
            for quantity, values in getattr(self, split).items():
                summary[f"{split}_{quantity}_min"] = float(np.min(values))
                summary[f"{split}_{quantity}_max"] = float(np.max(values))
                summary[f"{split}_{quantity}_barrier"] = self.barrier(split, quantity)
        return {
            **summary,
            "arc_length": self.arc_length,
            "straight_distance": self.straight_distance,
            "length_ratio": self.arc_length / self.straight_distance if self.straight_distance else 1.0,
            "num_points": len(self.t),
        }

    def save(self, path):
        """Writes the result to `path`, a .npz file; the file is complete or not there."""
        arrays = {"t": self.t, "distance": self.distance, "straight_distance": self.straight_distance}
        for split in ("train", "test"):
            arrays.update({f"{split}_{quantity}": values for quantity, values in getattr(self, split).items()})
        temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    @classmethod
    def load(cls, path):
        """Reads a result that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        missing = {"t", "distance", "straight_distance"} - arrays.keys()
        if missing:
            raise ValueError(f"`path` must be a file written by PathResult.save. '{path}' lacks {sorted(missing)}.")
        splits = {
            split: {
                key.removeprefix(f"{split}_"): value for key, value in arrays.items() if key.startswith(f"{split}_")
            }
            for split in ("train", "test")
        }
        return cls(arrays["t"], arrays["distance"], float(arrays["straight_distance"]), **splits)

    def plot(self, path=None, line=None):
        """Train loss and test error along the curve; needs matplotlib.

        Args:
            path: File to write, in a format that matplotlib knows by its ending. Default: none.
            line: `PathResult` of the straight segment, drawn dashed for comparison. Default: none.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from curves.plots import plot_paths

        return plot_paths({"curve": self, **({"straight line": line} if line else {})}, path)


def evaluate_path(model, train, test, num_points=61, batch_size=128, verbose=True):
    """Evaluates a curve at `num_points` evenly spaced positions.

    At each t the BatchNormalization statistics are re-estimated on `train` (see `update_batch_norm`), then the compiled
    loss and metrics are taken over all of `train` and `test`, as `model.evaluate` defines them, without augmentation.
    At a fixed endpoint they are those of the endpoint network with its own statistics. Nothing is compiled twice.
    Afterwards, also after an error, the model stands where it stood, with the statistics it had.

    Args:
        model: A compiled `CurveModel`. `curves.connect(a, b, curve=curves.Bezier(2))` is the straight line.
        train, test: What `keras.Model.evaluate` takes: arrays `(x, y)`, a `tf.data.Dataset`, a `PyDataset`, ...
        num_points: Number of positions, endpoints included, at least 2. Default: 61, as in the paper's code.
        batch_size: Samples per batch, for arrays. Default: 128.
        verbose: Whether to show a progress bar.

    Returns:
        A `PathResult`.

    Raises:
        ValueError: if the model is no `CurveModel` or not compiled, `num_points` is below 2, or data are a generator.

    References:
        Garipov et al., NeurIPS 2018, section 4, https://arxiv.org/abs/1802.10026
    """
    if not isinstance(model, CurveModel):
        raise ValueError(f"`model` must be a curves.CurveModel. Received: model={model!r}")
    if not model.compiled:
        raise ValueError("`model` must be compiled with a loss: call `model.compile(optimizer, loss, metrics=[...])`.")
    if num_points < 2:
        raise ValueError(f"`num_points` must be at least 2. Received: num_points={num_points}")
    for name, data in (("train", train), ("test", test)):
        if hasattr(data, "__next__"):
            raise ValueError(f"`{name}` is read many times: give arrays or a data set, not a generator.")
    positions = np.linspace(0, 1, num_points)
    batch_norm = BatchNormEstimator(model)
    state = [(v, read(v)) for v in (model.t, *batch_norm.statistics)]
    progress = keras.utils.Progbar(num_points, verbose=int(verbose), unit_name="point")
    splits = {"train": [], "test": []}
    with restored_on_error(model):
        for t in positions:
            model.t.assign(t)
            batch_norm.update(train, batch_size)
            penalty = model.penalty(t)
            for split, data in (("train", train), ("test", test)):
                splits[split].append(_measure(model, data, batch_size, penalty))
            progress.add(1)
    for variable, value in state:
        variable.assign(value)
    return PathResult(
        positions,
        np.concatenate([[0.0], np.cumsum(model.segment_lengths(positions))]),
        model.arc_length(num_points=2),
        **{
            split: {name: np.array([point[name] for point in points]) for name in points[0]}
            for split, points in splits.items()
        },
    )


def _measure(model, data, batch_size, penalty):
    if isinstance(data, tuple):
        x, y, *weights = data
        values = model.evaluate(
            x, y, batch_size, sample_weight=weights[0] if weights else None, verbose=0, return_dict=True
        )
    else:
        values = model.evaluate(data, verbose=0, return_dict=True)
    accuracies = [values[name] for name in ACCURACIES if name in values]
    error = {"error": 1 - accuracies[0]} if accuracies else {}
    return {**values, "nll": values["loss"] - penalty, **error}
