"""Ensembles of snapshots of one network: the mean of the members' predicted probabilities."""

import collections
import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from curves.batch_norm import update_batch_norm
from curves.layers import batch_norm_layers
from curves.networks import clone, refresh, restored
from keras_fge.folder import Folder
from keras_fge.metrics import calibrated_metrics, classification_metrics, regression_metrics
from keras_fge.snapshots import Snapshot, distance


class Ensemble:
    """Networks of one architecture that predict together: p(y | x) = 1/K sum_k p_k(y | x).

    Probabilities are averaged, never logits. One member at a time is put into `network`, whose own weights come back
    afterwards, also after an error; sums are float32. `ensemble[:k]` is the ensemble of the first k members.

    Args:
        network: A built `keras.Model`.
        snapshots: `Snapshot`s, or lists of arrays as `network.get_weights()` returns them; at least one.
        from_logits: What the network outputs. True: logits, which a softmax (a sigmoid for a single output) turns into
            probabilities before they are averaged. False: probabilities. None: neither, as in regression. For a network
            with several outputs, one for all or a list with one for each. `callback.ensemble()` takes it from the
            compiled losses. Default: False.

    Raises:
        ValueError: if there is no snapshot, or one that does not fit the network.

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(self, network, snapshots, from_logits=False):
        snapshots = [s if isinstance(s, Snapshot) else Snapshot(s) for s in snapshots]
        if not snapshots:
            raise ValueError("`snapshots` is empty: an ensemble needs at least one member.")
        for index, snapshot in enumerate(snapshots):
            snapshot.check(network, index)
        kinds = from_logits if isinstance(from_logits, (list, tuple)) else [from_logits]
        if not all(kind in (True, False, None) for kind in kinds):
            raise ValueError(f"`from_logits` must hold True, False or None. Received: from_logits={from_logits!r}")
        self.network = network
        self.snapshots = snapshots
        self.from_logits = from_logits

    def predict(self, x, batch_size=None):
        """The mean of the members' probabilities; of their outputs, for a network that does not classify.

        Args:
            x: What `keras.Model.predict` takes. A data set must come in the same order every time: no shuffling.
            batch_size: Samples per batch, for arrays.

        Returns:
            float32 array of the shape of the network's output (or the same structure of arrays for several outputs).
        """
        return self._whole(self._unlabelled(x, batch_size))[0].mean()

    def predict_variance(self, x, batch_size=None):
        """The variance over the members, 1/K sum_k (p_k - p)^2, of what `predict` averages. Same shape."""
        return self._whole(self._unlabelled(x, batch_size))[0].variance()

    def evaluate(self, x, y=None, batch_size=None, calibrate=False):
        """Test metrics of the whole ensemble, as floats.

        For p = `predict(x)`, N samples and labels y:

            error: fraction of samples whose largest probability is not that of the label, in [0, 1]
            nll:   -1/N sum_n log p_n[y_n], in nats (p clipped at 1e-7)
            brier: 1/N sum_n sum_c (p_n[c] - [c = y_n])^2
            ece:   sum_b (n_b / N) |accuracy_b - confidence_b| over 15 equal bins of the largest probability

        and, where `from_logits` is None, mse and mae: the mean squared and absolute error of the mean prediction. With
        several outputs, the name of the output stands before each, as in "digit_error".

        Args:
            x: Inputs, or a data set of (x, y) batches in an order that does not change.
            y: Labels, for array inputs: integers of shape `(N,)` or `(N, 1)`, or one-hot of shape `(N, classes)`. For
                several outputs, the structure of the outputs.
            batch_size: Samples per batch, for arrays.
            calibrate: Whether to add "calibrated_nll", "calibrated_brier", "calibrated_ece" and "temperature": after
                temperature scaling with 5-fold cross-validation on these data; see `calibrated_metrics`.

        Returns:
            `{"error", "nll", "brier", "ece", ...}`.

        Raises:
            ValueError: if outputs are no probabilities (see `from_logits`), labels do not fit, or the data set changes
                its order between passes.

        References:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
        """
        running, labels = self._whole(self._labelled(x, y, batch_size))
        return self._metrics(running.mean(), labels, calibrate)

    def evaluate_sizes(self, x, y=None, batch_size=None, calibrate=False):
        """The metrics of `evaluate` for the ensembles of the first 1, 2, ..., K members: arrays of shape `(K,)`."""
        with self._borrowed():
            metrics = [
                self._metrics(running.mean(), labels, calibrate)
                for running, labels in self._running_means(self._labelled(x, y, batch_size))
            ]
        return {name: np.array([values[name] for values in metrics]) for name in metrics[0]}

    def disagreement(self, x, batch_size=None):
        """The fraction of samples for which two members predict different classes: array of shape `(K, K)`."""
        with self._borrowed():
            classes = [_classes(outputs) for outputs, _ in self._each(self._unlabelled(x, batch_size))]
        return np.array([[np.mean(a != b) for b in classes] for a in classes])

    def distances(self):
        """||w_j - w_k|| over the trainable weights: array of shape `(K, K)`, in the units of the weights."""
        matrix = np.zeros((len(self), len(self)))
        for j in range(len(self)):
            first = self.snapshots[j].weights
            for k in range(j):
                matrix[j, k] = matrix[k, j] = distance(self.network, first, self.snapshots[k].weights)
        return matrix

    def select(self, x, y, batch_size=None, seed=0):
        """The members that do best together on validation data, chosen greedily, as an `Ensemble`.

        On a random half of the data, the member that lowers the NLL of the ensemble so far the most (for a network that
        does not classify, the mean squared error) joins until none is left. Among the ensembles on this way, the whole
        one included, that with the lowest value on the *other* half is returned: a choice which does not hold there is
        not made.

        Args:
            x, y: Validation arrays. Never test data: what chose the members cannot measure them.
            batch_size: Samples per batch.
            seed: Of the split. Default: 0.

        References:
            Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
        """
        samples = len(keras.tree.flatten(x)[0])
        if samples < 2:
            raise ValueError(f"`x` must hold at least 2 samples. Received: {samples}")
        with self._borrowed():
            predictions = [outputs for outputs, _ in self._each(self._unlabelled(x, batch_size))]
        halves = np.array_split(np.random.default_rng(seed).permutation(samples), 2)

        def score(total, count, half):
            mean = keras.tree.map_structure(lambda array: array[half] / np.float32(count), total)
            labels = keras.tree.map_structure(lambda array: np.asarray(array)[half], y)
            values = self._metrics(mean, labels)
            value = sum(value for name, value in values.items() if name.endswith(("nll", "mse")))
            return round(value, 6)  # Of ensembles that are as good, the smaller one.

        def add(total, member):
            return keras.tree.map_structure(np.add, total, predictions[member])

        chosen, guards = [], []
        total = keras.tree.map_structure(np.zeros_like, predictions[0])
        for count in range(1, len(self) + 1):
            rest = set(range(len(self))).difference(chosen)
            chosen.append(min(rest, key=lambda member: score(add(total, member), count, halves[0])))
            total = add(total, chosen[-1])
            guards.append(score(total, count, halves[1]))
        best = chosen[: np.argmin(guards) + 1]
        return Ensemble(self.network, [self.snapshots[member] for member in best], self.from_logits)

    def average_weights(self, train=None, batch_size=128):
        """One network with the mean of the members' weights: stochastic weight averaging (SWA) from the same run.

        Args:
            train: Training data, what `keras.Model.fit` takes: BatchNormalization statistics are estimated anew, as
                those of the members do not fit the mean. Needed if the network has such layers.
            batch_size: Samples per batch, for arrays. Default: 128.

        Returns:
            A `keras.Model` of its own, not compiled. Weights that are no floats are those of the first member.

        Raises:
            ValueError: if the network has BatchNormalization and `train` is missing.

        References:
            Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
            https://arxiv.org/abs/1803.05407
        """
        if train is None and batch_norm_layers(self.network):
            raise ValueError(f"`train` is needed: '{self.network.name}' has BatchNormalization, to be estimated anew.")
        totals = [w.astype("float64") if w.dtype.kind == "f" else w for w in self.snapshots[0].weights]
        for snapshot in self.snapshots[1:]:
            for index, array in enumerate(snapshot.weights):
                if array.dtype.kind == "f":
                    totals[index] += array
        network = clone(self.network)
        network.set_weights([total / len(self) if total.dtype.kind == "f" else total for total in totals])
        refresh(network)
        if train is not None:
            update_batch_norm(network, train, batch_size)
        return network

    def to_model(self):
        """The ensemble as one `keras.Model` that outputs mean probabilities: to save as .keras, export, or serve.

        It holds all members side by side, and only layers of Keras' own, so a file of it loads without this package.

        Raises:
            ValueError: if the network is of a class of its own: only functional and Sequential networks tell what goes
                into them.
        """
        if not getattr(self.network, "inputs", None):
            raise ValueError(
                f"`to_model` needs a functional or Sequential network. Received: {type(self.network).__name__}, which "
                "you can call inside a functional model: keras.Model(inputs, network(inputs))."
            )
        network = self.network
        structure = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), structure
        )
        outputs = []
        for index, snapshot in enumerate(self.snapshots):
            member = clone(network)
            member.name = f"member_{index + 1}"
            member.set_weights(snapshot.weights)
            refresh(member)
            member.trainable = False
            outputs.append(_by_output(_probability_layer, member(inputs), self.from_logits))
        mean = keras.tree.map_structure(_mean_layer, *outputs)
        return keras.Model(inputs, mean, name=f"{network.name}_ensemble")

    def save(self, directory):
        """Writes the ensemble to a new folder: the network (.keras), a file for each member, and a manifest.

        Each file is complete or not there, nothing is pickled, and the manifest has the SHA-256 of every member.

        Raises:
            ValueError: if there is an ensemble in `directory` already.
            OSError: if it cannot be written.
        """
        folder = Folder(directory)
        folder.create(self.network)
        folder.write_manifest(map(folder.write_member, self.snapshots), from_logits=self.from_logits)

    @classmethod
    def load(cls, directory, network=None, from_logits="as saved", skip_damaged=False):
        """The ensemble that `save` or a callback with `directory=` wrote. Weights are read when they are needed.

        Args:
            directory: The folder.
            network: A built network to use. Default: the one in the folder, whose classes must be Keras' own or
                registered with `keras.saving.register_keras_serializable`.
            from_logits: As for the constructor. Default: as saved.
            skip_damaged: Whether to leave out members whose file is missing or not as written, with a warning.
                Default: no; they are an error.

        Raises:
            ValueError: if there is no ensemble, its network cannot be loaded, or a member is damaged or does not fit.
        """
        folder = Folder(directory)
        manifest = folder.read_manifest()
        snapshots = []
        for snapshot in manifest["members"]:
            try:
                _ = snapshot.weights  # Compares the checksum.
            except ValueError as error:
                if not skip_damaged:
                    raise ValueError(f"{error} `skip_damaged=True` would leave it out.") from error
                warnings.warn(f"{error} It is left out.", stacklevel=2)
            else:
                snapshots.append(snapshot)
        if not snapshots:
            raise ValueError(f"There is no member in '{directory}'.")
        if from_logits == "as saved":
            from_logits = manifest["from_logits"]
        if from_logits == "unknown":
            raise ValueError(f"Say `Ensemble.load('{directory}', from_logits=...)`: the losses of the run do not tell.")
        return cls(folder.load_network() if network is None else network, snapshots, from_logits)

    def __len__(self):
        return len(self.snapshots)

    def __getitem__(self, index):
        if not isinstance(index, slice):
            raise TypeError(f"An ensemble is indexed by slices, as in ensemble[:3]. Received: {index!r}")
        return Ensemble(self.network, self.snapshots[index], self.from_logits)

    def __repr__(self):
        return f"Ensemble({len(self)} members of '{self.network.name}', from_logits={self.from_logits})"

    @contextlib.contextmanager
    def _borrowed(self):
        """Inside, members may stand in `network`; afterwards, also after an error, its own weights do."""
        try:
            with restored(self.network):
                yield
        finally:
            refresh(self.network)

    def _unlabelled(self, x, batch_size):
        return lambda: (self.network.predict(x, batch_size=batch_size, verbose=0), None)

    def _labelled(self, x, y, batch_size):
        return lambda: predict_with_labels(self.network, x, y, batch_size)

    def _each(self, read):
        """(probabilities, labels) of one member after the other, inside `_borrowed`; `read` gives those of one."""
        for snapshot in self.snapshots:
            self.network.set_weights(snapshot.weights)
            refresh(self.network)
            outputs, labels = read()
            yield to_probabilities(outputs, self.from_logits), labels

    def _running_means(self, read):
        """(`RunningMean` of the first k members, labels) for k = 1, 2, ..., K."""
        running, labels = RunningMean(), None
        for outputs, new_labels in self._each(read):
            check_order(labels, new_labels, "`x`")
            labels = new_labels
            running.add(outputs)
            yield running, labels

    def _whole(self, read):
        """(`RunningMean` of all members, labels)."""
        with self._borrowed():
            return collections.deque(self._running_means(read), maxlen=1).pop()

    def _metrics(self, outputs, labels, calibrate=False):
        return measure(self.network, outputs, labels, self.from_logits, calibrate)


def check_order(labels, new_labels, name):
    """Raises a ValueError if the labels of two passes differ; the first ones may be None."""
    pairs = [] if labels is None else zip(keras.tree.flatten(labels), keras.tree.flatten(new_labels))
    if not all(np.array_equal(old, new) for old, new in pairs):
        raise ValueError(f"{name} changes its order from pass to pass: turn the shuffling of the data set off.")


class RunningMean:
    """Mean and variance of outputs that come one after the other, in float32 and the memory of two of them."""

    def __init__(self):
        self.count = 0
        self.total = self.squares = None

    def add(self, outputs):
        before = self.mean() if self.count else None
        self.count += 1
        self.total = outputs if before is None else keras.tree.map_structure(np.add, self.total, outputs)
        if before is None:
            self.squares = keras.tree.map_structure(np.zeros_like, outputs)
        else:  # Welford's update: no difference of large sums.
            self.squares = keras.tree.map_structure(
                lambda squares, new, old, mean: squares + (new - old) * (new - mean),
                self.squares,
                outputs,
                before,
                self.mean(),
            )

    def mean(self):
        return keras.tree.map_structure(lambda total: total / np.float32(self.count), self.total)

    def variance(self):
        return keras.tree.map_structure(lambda squares: squares / np.float32(self.count), self.squares)


def to_probabilities(outputs, from_logits):
    """Predictions as float32 arrays, with logits turned into probabilities."""

    def convert(array, logits):
        array = np.asarray(array, dtype="float32")
        if not logits:
            return array
        return ops.convert_to_numpy((ops.sigmoid if array.shape[-1] == 1 else ops.softmax)(array))

    return _by_output(convert, outputs, from_logits)


def measure(network, outputs, labels, from_logits, calibrate=False):
    """The metrics of `Ensemble.evaluate` of mean probabilities, or of values."""
    names = sorted(outputs) if isinstance(outputs, dict) else getattr(network, "output_names", None)
    if isinstance(labels, dict) and not isinstance(outputs, dict):
        labels = [labels.get(name) for name in names]
    outputs, labels = keras.tree.flatten(outputs), keras.tree.flatten(labels)  # Dictionaries in the order of keys.
    if len(outputs) != len(labels):
        raise ValueError(f"`y` must hold labels for {len(outputs)} outputs. Received: {len(labels)} arrays")
    names = names or [f"output_{index + 1}" for index in range(len(outputs))]
    metrics = {}
    for name, array, target, logits in zip(names, outputs, labels, _kinds(from_logits, len(outputs))):
        if logits is None:
            values = regression_metrics(array, target)
        else:
            values = classification_metrics(array, target)
            if calibrate:
                values.update(calibrated_metrics(array, target))
        metrics.update({f"{name}_{key}" if len(outputs) > 1 else key: value for key, value in values.items()})
    return metrics


def predict_with_labels(network, x, y, batch_size):
    """(outputs, labels); of a data set without `y`, from one pass, so that they belong together."""
    if y is not None:
        return network.predict(x, batch_size=batch_size, verbose=0), y
    batches = (x[index] for index in range(len(x))) if isinstance(x, keras.utils.PyDataset) else x
    pairs = []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) >= 2):
            raise ValueError("`y` is missing: give evaluate(x, y), or a data set of (x, y) batches.")
        labels = keras.tree.map_structure(np.asarray, batch[1])
        inputs = keras.tree.map_structure(np.asarray, batch[0])  # JAX takes no tensors of other backends.
        pairs.append((keras.tree.map_structure(np.asarray, network.predict_on_batch(inputs)), labels))
    if not pairs:
        raise ValueError("`x` holds no batches. A generator can be read only once: give a data set.")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *pairs)


def _by_output(function, outputs, from_logits):
    """`function(output, from_logits)` of each output."""
    flat = keras.tree.flatten(outputs)
    kinds = _kinds(from_logits, len(flat))
    return keras.tree.pack_sequence_as(outputs, [function(output, kind) for output, kind in zip(flat, kinds)])


def _kinds(from_logits, count):
    kinds = from_logits if isinstance(from_logits, (list, tuple)) else [from_logits] * count
    if len(kinds) != count:
        raise ValueError(f"`from_logits` must have one value for each of {count} outputs. Received: {from_logits}")
    return kinds


def _classes(outputs):
    """The predicted classes, for an output that has a column for each, or one for the second of two."""
    if not isinstance(outputs, np.ndarray):
        raise ValueError("`disagreement` needs a network with one output.")
    return np.argmax(outputs, axis=-1) if outputs.shape[-1] > 1 else outputs[..., 0] > 0.5


def _probability_layer(tensor, logits):
    if not logits:
        return tensor
    return keras.layers.Activation("sigmoid" if tensor.shape[-1] == 1 else "softmax", dtype="float32")(tensor)


def _mean_layer(*tensors):
    return keras.layers.Average(dtype="float32")(tensors) if len(tensors) > 1 else tensors[0]
