"""BatchNormalization statistics, re-estimated: they belong to one set of weights."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.data import check_data
from keras_fge.core.keras_internals import all_layers, uses_renorm
from keras_fge.core.networks import read, restored


def batch_norm_layers(network: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """The BatchNormalization layers of `network` that have statistics to estimate.

    Those that a layer hides from Keras are found if it tells of them in an attribute `_keras_fge_hidden_layers`.
    """
    layers = []
    for layer in all_layers(network):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            layers.append(layer)
        for hidden in getattr(layer, "_keras_fge_hidden_layers", ()):
            layers.extend(batch_norm_layers(hidden))
    return layers


def batch_norm_statistics(network: keras.layers.Layer) -> list[keras.Variable]:
    """Moving mean and moving variance of each of the `batch_norm_layers`, one after the other."""
    return [v for norm in batch_norm_layers(network) for v in (norm.moving_mean, norm.moving_variance)]


def update_batch_norm(network: keras.Model, data: Any, batch_size: int = 128) -> None:
    """Sets the statistics of all BatchNormalization layers of `network` to those of `data`, at its present weights.

    For batches b of n_b samples and N = sum_b n_b,

        moving_mean = sum_b n_b mean_b / N,   moving_variance = sum_b n_b variance_b / N,

    where each layer sees inputs normalized by the statistics of the same batch, as in training: the cumulative
    moving average of the paper's code (PyTorch's `momentum=None`), but weighted by samples, so that a short last
    batch counts for what it is. With a mask, n_b is the number of valid steps. Everything but BatchNormalization
    works as in inference: dropout and noise are off. Frozen BatchNormalization layers (`trainable=False`) keep
    their statistics. No momentum, flag or other weight changes, and if the pass fails or is interrupted nothing
    changes at all.

    Args:
        network: A built `keras.Model`, or a `CurveModel`, which is updated at its current position `t`. At a fixed
            endpoint, inference goes on with the statistics of the endpoint network itself.
        data: What `keras.Model.fit` takes: arrays `(x, y)`, a `tf.data.Dataset`, a `PyDataset`, a torch `DataLoader`.
        batch_size: Samples per batch, for arrays. Default: 128.

    Raises:
        ValueError: if a layer uses `renorm=True`, which has no such average, or statistics would not be finite.

    Example:
        curve = curves.connect(net_a, net_b)
        curve.t = 0.3
        curves.update_batch_norm(curve, (x, y))

    References:
        Garipov et al., NeurIPS 2018, section 4; Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018,
        https://arxiv.org/abs/1803.05407
    """
    with restored(network, only_on_error=True):
        estimator = BatchNormEstimator(network)
        estimator.update(data, batch_size)
        if not all(np.all(np.isfinite(read(variable))) for variable in estimator.statistics):
            raise ValueError(
                f"`data` gives statistics of BatchNormalization that are not finite: a value of it or a weight of "
                f"'{network.name}' is NaN or infinite."
            )


def check_can_be_estimated(network: keras.Model, train: Any) -> None:
    """Raises a ValueError if `network` has BatchNormalization, and there are no data `train` to estimate it on."""
    if train is None and batch_norm_layers(network):
        raise ValueError(f"`train` is needed: '{network.name}' has BatchNormalization, to be estimated anew.")


class BatchNormEstimator:
    """Does what `update_batch_norm` does, repeatedly on one network and without compiling the pass anew."""

    def __init__(self, network: keras.Model):
        if not network.built:
            raise ValueError(f"`network` must be built: call it on some data. Received: '{network.name}', not built.")
        self.layers = batch_norm_layers(network)
        for layer in self.layers:
            if uses_renorm(layer):
                raise ValueError(f"BatchNormalization '{layer.name}' uses renorm=True, which is not supported.")
        self.statistics = batch_norm_statistics(network)
        self._reader = _StatisticsReader(network, self.layers)
        if network.compiled:
            self._reader.compile(run_eagerly=network.run_eagerly, jit_compile=network.jit_compile)

    def update(self, data: Any, batch_size: int = 128) -> None:
        """Does what `update_batch_norm` does, for `network` as it is now."""
        check_data("data", data, is_read_once=True)
        if not self.layers:
            return
        x = data[0] if isinstance(data, tuple) else data
        with self._reader.listening():
            batches = self._reader.predict(x, batch_size=batch_size if isinstance(data, tuple) else None, verbose=0)
        sizes = [1 + 2 * int(np.prod(layer.moving_mean.shape)) for layer in self.layers]
        for layer, part in zip(self.layers, np.split(batches, np.cumsum(sizes)[:-1], axis=1)):
            part = part[part[:, 0] > 0]  # A batch of padding alone counts nothing.
            if not len(part):
                raise ValueError(f"`data` are masked everywhere: BatchNormalization '{layer.name}' sees no valid step.")
            mean, variance = np.split(np.average(part[:, 1:], axis=0, weights=part[:, 0]), 2)
            for variable, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                variable.assign(value.reshape(variable.shape))


class _StatisticsReader(keras.Model):
    """For each batch, one row: of each layer the number of samples, or valid steps, mean and variance of its inputs.

    As the outputs of a model, these come out of `predict`, which batches, compiles and feeds any kind of data.
    """

    def __init__(self, network, layers):
        super().__init__(autocast=False, name="statistics_reader")
        self.network = network
        object.__setattr__(self, "layers_to_read", layers)  # Parts of `network`, not of this model.
        object.__setattr__(self, "heard", {})

    def call(self, inputs):
        self.heard.clear()
        # In a scope, so that nothing is written: a pass that is interrupted leaves no trace.
        mapping = [(variable, variable.value) for variable in self.network.variables]
        with keras.StatelessScope(mapping, collect_losses=True):
            self.network(inputs, training=False)
        samples = ops.cast(ops.shape(keras.tree.flatten(inputs)[0])[0], "float32")
        row = []
        for layer in self.layers_to_read:
            # More than one call, where a layer is shared; none, where inference does not reach it: no change.
            calls = self.heard.get(id(layer)) or [(None, layer.moving_mean.value, layer.moving_variance.value)]
            counts, *statistics = zip(*calls)
            if all(count is None for count in counts):
                row += [samples, *(sum(values) / len(calls) for values in statistics)]
                continue
            counts = [samples if count is None else count for count in counts]
            total = sum(counts)
            row.append(total)
            for values in statistics:
                weighted = (ops.where(count > 0, count * value, 0.0) for count, value in zip(counts, values))
                row.append(sum(weighted) / ops.maximum(total, 1.0))
        return ops.expand_dims(ops.concatenate([ops.reshape(value, (-1,)) for value in row]), 0)

    @contextlib.contextmanager
    def listening(self):
        """Inside, the layers normalize by the batch, and what they compute is heard; all other layers are left alone.

        With a momentum of 0, a layer in training mode stores the bare statistics of the batch.
        """
        before = [(layer, layer.momentum, layer.__dict__.get("call")) for layer in self.layers_to_read]
        try:
            for layer in self.layers_to_read:
                layer.momentum = 0.0
                layer.call = self._heard_call(layer, layer.call)
            yield
        finally:
            for layer, momentum, call in before:
                layer.momentum = momentum
                layer.__dict__.pop("call", None)
                if call is not None:
                    layer.call = call

    def _heard_call(self, layer, call):
        def heard_call(*args, **kwargs):
            for variable in (layer.moving_mean, layer.moving_variance):
                variable.assign(ops.zeros_like(variable.value))  # Even 0 times a value that is not finite is NaN.
            outputs = call(*args, **{**kwargs, "training": True})
            mask = kwargs.get("mask")  # Keras counts valid steps alone.
            count = None if mask is None else ops.sum(ops.cast(mask, "float32"))
            statistics = (count, layer.moving_mean.value, layer.moving_variance.value)
            self.heard.setdefault(id(layer), []).append(statistics)
            return outputs

        return heard_call
