"""Exact derivatives of a compiled loss with respect to the weights: Keras has none, so each backend has its own."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.data import as_arrays, batches_of, number_of_samples, take_rows
from keras_fge.core.networks import as_plain, recurrent_states

Vectors = list[np.ndarray]  # One array for each trainable variable.


class LossDerivatives:
    """Gradient and Hessian of the compiled loss of a network, at the weights that it has when one asks.

    The loss is that of `evaluate`: the mean over all samples, with regularizers, in inference mode. BatchNormalization
    has the statistics that stand in the network, which count as constants.

    Args:
        network: A compiled `keras.Model`.
        data: Arrays `(x, y)`, or `(x, y, sample_weight)`, or a data set of such batches.
        batch_size: Samples per batch, for arrays.

    Raises:
        ValueError: if nothing is to be trained, or a layer carries states from batch to batch.
    """

    def __init__(self, network: keras.Model, data: Any, batch_size: int):
        if not network.trainable_variables:
            raise ValueError(f"'{network.name}' has no weights to train.")
        if recurrent_states(network):
            raise ValueError(f"'{network.name}' has stateful layers: its loss depends on the batches before.")
        self.network, self._data, self._batch_size = network, data, batch_size
        self._is_built = False  # Whether the compiled loss is: it makes its metrics when it is called first.
        self._variables = network.trainable_variables
        self._others = network.non_trainable_variables
        self._arguments = {"training": False} if takes_training(network.compute_loss) else {}
        self._gradient, self._product = _derivatives_of(self._loss_at)

    def gradient(self) -> Vectors:
        """The gradient, in float64."""
        values = self._values()
        return self._mean(lambda batch: self._gradient(values, self._states(), batch))

    def hessian_times(self, vectors: Sequence[np.ndarray]) -> Vectors:
        """The product of the Hessian with a vector, given and returned as an array for each trainable variable."""
        values = self._values()
        directions = [ops.cast(ops.convert_to_tensor(v), value.dtype) for v, value in zip(vectors, values)]
        return self._mean(lambda batch: self._product(values, directions, self._states(), batch))

    def _values(self):
        return [ops.convert_to_tensor(variable.value) for variable in self._variables]

    def _states(self):
        return [ops.convert_to_tensor(variable.value) for variable in self._others]

    def _loss_at(self, values, states, batch):
        """The compiled loss of one batch, as a function of the weights. In a scope, so that nothing is written."""
        x, y, *weights = batch
        mapping = [*zip(self._variables, values), *zip(self._others, states)]
        with keras.StatelessScope(mapping, collect_losses=True):
            outputs = self.network(x, training=False)
            return self.network.compute_loss(x, y, outputs, *weights, **self._arguments)

    def _mean(self, of_batch: Callable[[tuple], Any]) -> Vectors:
        """The mean over batches, weighted by their samples."""
        total, samples = [np.zeros(tuple(variable.shape)) for variable in self._variables], 0
        for batch in self._batches():
            if not self._is_built:  # Not inside a program that JAX traces.
                self._loss_at(self._values(), self._states(), batch)
                self._is_built = True
            size = len(keras.tree.flatten(batch[0])[0])
            samples += size
            for sum_of_all, part in zip(total, of_batch(batch)):
                sum_of_all += size * as_plain(ops.convert_to_numpy(part)).astype("float64")
        return [sum_of_all / samples for sum_of_all in total]

    def _batches(self):
        if isinstance(self._data, tuple):
            count, data = number_of_samples(self._data), as_arrays(self._data, "train")
            rows = np.split(np.arange(count), range(self._batch_size, count, self._batch_size))
            batches = (take_rows(data, chosen) for chosen in rows)
        else:
            batches = batches_of(self._data)
        for x, y, *weights in batches:
            yield keras.tree.map_structure(ops.convert_to_tensor, (x, y, *weights))


def takes_training(compute_loss: Callable) -> bool:
    """Whether an own `compute_loss` has the argument `training`, which Keras lets it leave out."""
    parameters = inspect.signature(compute_loss).parameters.values()
    return any(parameter.name == "training" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _derivatives_of(loss_at):
    """(gradient(values, states, batch), product of the Hessian with a vector(values, vector, states, batch))."""
    return {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}[keras.backend.backend()](loss_at)


def _of_jax(loss_at):
    import jax

    gradient = jax.grad(loss_at)

    def product(values, directions, states, batch):
        return jax.jvp(lambda weights: gradient(weights, states, batch), (values,), (directions,))[1]

    return jax.jit(gradient), jax.jit(product)


def _of_tensorflow(loss_at):
    import tensorflow as tf

    def gradient(values, states, batch):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = loss_at(values, states, batch)
        return tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def product(values, directions, states, batch):
        with tf.GradientTape() as tape:
            tape.watch(values)
            slope = sum(tf.reduce_sum(g * v) for g, v in zip(gradient(values, states, batch), directions))
        return tape.gradient(slope, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return tf.function(gradient, reduce_retracing=True), tf.function(product, reduce_retracing=True)


def _of_torch(loss_at):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def gradient(values, states, batch, keeps_graph=False):
        weights = [value.detach().requires_grad_() for value in values]
        loss = loss_at(weights, states, batch)
        found = torch.autograd.grad(loss, weights, create_graph=keeps_graph, allow_unused=True)
        found = [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights)]
        return (found, weights) if keeps_graph else found

    def product(values, directions, states, batch):
        with sdpa_kernel(SDPBackend.MATH):  # The fast kernels of attention have no second derivative.
            slopes, weights = gradient(values, states, batch, keeps_graph=True)
        slope = sum((g * v).sum() for g, v in zip(slopes, directions))
        if not slope.requires_grad:  # A loss that is linear in the weights.
            return [torch.zeros_like(weight) for weight in weights]
        found = torch.autograd.grad(slope, weights, allow_unused=True)
        return [torch.zeros_like(w) if h is None else h for h, w in zip(found, weights)]

    return gradient, product
