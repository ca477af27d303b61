"""Ensembles of snapshots of one network: the mean of the members' predicted probabilities."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_fge.snapshots import Snapshot

ECE_BINS = 15


class Ensemble:
    """Networks of one architecture that predict together: p(y | x) = 1/K sum_k p_k(y | x).

    Probabilities are averaged, never logits. One member at a time is put into `network`, whose own weights come back
    afterwards, also after an error.

    Args:
        network: A built `keras.Model`.
        snapshots: `Snapshot`s, or lists of arrays as `network.get_weights()` returns them; at least one.
        from_logits: Whether the network outputs logits. Then a softmax (a sigmoid for a single output) turns them into
            probabilities before they are averaged. `callback.ensemble()` takes it from the compiled loss.

    Raises:
        ValueError: if there is no snapshot, or one that does not fit the network.

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(self, network, snapshots, from_logits=False):
        snapshots = [s if isinstance(s, Snapshot) else Snapshot(list(s)) for s in snapshots]
        if not snapshots:
            raise ValueError("`snapshots` is empty: an ensemble needs at least one member.")
        for index, snapshot in enumerate(snapshots):
            snapshot.check(network, index)
        self.network = network
        self.snapshots = snapshots
        self.from_logits = bool(from_logits)

    def predict(self, x, batch_size=None):
        """The mean of the members' probabilities; of their outputs, for a network that does not classify.

        Args:
            x: What `keras.Model.predict` takes. A data set must come in the same order every time: no shuffling.
            batch_size: Samples per batch, for arrays.

        Returns:
            float32 array of the shape of the network's output (or the same structure of arrays for several outputs).
        """
        total = None
        with self._network_restored():
            for snapshot in self.snapshots:
                self.network.set_weights(snapshot.weights)
                outputs = self.network.predict(x, batch_size=batch_size, verbose=0)
                outputs = keras.tree.map_structure(self._probabilities, outputs)
                total = outputs if total is None else keras.tree.map_structure(np.add, total, outputs)
        return keras.tree.map_structure(lambda array: array / np.float32(len(self)), total)

    def evaluate(self, x, y=None, batch_size=None):
        """Test metrics of the whole ensemble, as floats.

        For p = `predict(x)`, N samples and labels y:

            error: fraction of samples whose largest probability is not that of the label, in [0, 1]
            nll:   -1/N sum_n log p_n[y_n], in nats (p clipped at 1e-7)
            brier: 1/N sum_n sum_c (p_n[c] - [c = y_n])^2
            ece:   sum_b (n_b / N) |accuracy_b - confidence_b| over 15 equal bins of the largest probability

        Args:
            x: Inputs, or a data set of (x, y) batches in an order that does not change.
            y: Labels, for array inputs: integers of shape `(N,)` or `(N, 1)`, or one-hot of shape `(N, classes)`.
            batch_size: Samples per batch, for arrays.

        Returns:
            `{"error", "nll", "brier", "ece"}`.

        Raises:
            ValueError: if outputs are no probabilities (see `from_logits`), labels do not fit, or the data set changes
                its order between passes.

        References:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
        """
        return {name: float(values[-1]) for name, values in self.evaluate_sizes(x, y, batch_size).items()}

    def evaluate_sizes(self, x, y=None, batch_size=None):
        """The metrics of `evaluate` for the ensembles of the first 1, 2, ..., K members: arrays of shape `(K,)`."""
        total, labels, metrics = None, None, []
        with self._network_restored():
            for count, snapshot in enumerate(self.snapshots, start=1):
                self.network.set_weights(snapshot.weights)
                outputs, new_labels = _predict_with_labels(self.network, x, y, batch_size)
                if labels is not None and not np.array_equal(labels, new_labels):
                    raise ValueError("`x` changes its order from pass to pass: turn the shuffling of the data set off.")
                labels = new_labels
                probabilities = self._probabilities(outputs)
                total = probabilities if total is None else total + probabilities
                metrics.append(classification_metrics(total / np.float32(count), labels))
        return {name: np.array([values[name] for values in metrics]) for name in metrics[0]}

    @contextlib.contextmanager
    def _network_restored(self):
        variables = self.network.variables  # All of them: on JAX, a pass that breaks off loses random seeds too.
        own = [ops.convert_to_numpy(variable.value) for variable in variables]
        try:
            yield
        finally:
            for variable, value in zip(variables, own):
                variable.assign(value)

    def _probabilities(self, outputs):
        outputs = np.asarray(outputs, dtype="float32")
        if not self.from_logits:
            return outputs
        activation = ops.sigmoid if outputs.shape[-1] == 1 else ops.softmax
        return ops.convert_to_numpy(activation(outputs))

    def __len__(self):
        return len(self.snapshots)

    def __getitem__(self, index):
        """`ensemble[:k]` is the ensemble of the first k members."""
        if not isinstance(index, slice):
            raise TypeError(f"An ensemble is indexed by slices, as in ensemble[:3]. Received: {index!r}")
        return Ensemble(self.network, self.snapshots[index], self.from_logits)

    def __repr__(self):
        return f"Ensemble({len(self)} members of '{self.network.name}', from_logits={self.from_logits})"


def classification_metrics(probabilities, labels):
    """Error, NLL, Brier score and expected calibration error of predicted probabilities; see `Ensemble.evaluate`.

    Args:
        probabilities: Shape `(N, classes)`, or `(N, 1)` for the probability of class 1 of two.
        labels: Integers of shape `(N,)` or `(N, 1)`, or one-hot of shape `(N, classes)`.

    Returns:
        `{"error", "nll", "brier", "ece"}`, floats.
    """
    probabilities = np.asarray(probabilities, dtype="float64")
    if probabilities.ndim != 2:
        raise ValueError(f"`probabilities` must have shape (samples, classes). Received: {probabilities.shape}")
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    sums = np.sum(probabilities, axis=1)
    if not (np.min(probabilities) >= 0 and np.max(np.abs(sums - 1)) <= 1e-3):  # Also where there is a NaN.
        raise ValueError(
            "The outputs of the network are no probabilities: they must be non-negative and sum to 1. If they are "
            f"logits, set from_logits=True. Received: sums from {np.min(sums):.3g} to {np.max(sums):.3g}"
        )
    samples, classes = probabilities.shape
    labels = _integer_labels(labels, samples, classes)
    predicted = np.argmax(probabilities, axis=1)
    correct = predicted == labels
    confidence = np.max(probabilities, axis=1)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)  # (b/15, (b+1)/15]
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return {
        "error": float(1 - np.mean(correct)),
        "nll": float(-np.mean(np.log(np.maximum(probabilities[np.arange(samples), labels], 1e-7)))),
        "brier": float(np.mean(np.sum((probabilities - np.eye(classes)[labels]) ** 2, axis=1))),
        "ece": float(np.sum(np.abs(gaps)) / samples),
    }


def _integer_labels(labels, samples, classes):
    labels = np.asarray(labels)
    if labels.shape == (samples, classes) and classes > 1:
        return np.argmax(labels, axis=1)
    if labels.shape not in ((samples,), (samples, 1)):
        raise ValueError(
            f"`y` must have shape ({samples},), ({samples}, 1) or ({samples}, {classes}), one label for each "
            f"prediction. Received: shape {labels.shape}"
        )
    labels = labels.reshape(samples).astype("int64")
    if samples and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"`y` must hold classes 0 to {classes - 1}. Received: {labels.min()} to {labels.max()}")
    return labels


def _predict_with_labels(network, x, y, batch_size):
    """(outputs, labels) from one pass over the data, so that they belong together."""
    if y is not None:
        return network.predict(x, batch_size=batch_size, verbose=0), np.asarray(y)
    batches = (x[index] for index in range(len(x))) if isinstance(x, keras.utils.PyDataset) else x
    outputs, labels = [], []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) >= 2):
            raise ValueError("`y` is missing: give evaluate(x, y), or a data set of (x, y) batches.")
        outputs.append(np.asarray(network.predict_on_batch(batch[0])))
        labels.append(np.asarray(batch[1]))
    if not outputs:
        raise ValueError("`x` holds no batches. A generator can be read only once: give a data set.")
    return np.concatenate(outputs), np.concatenate(labels)
