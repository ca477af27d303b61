"""Networks of one architecture that train side by side on JAX: their weights are an axis of one program (`vmap`).

For a GPU that one small network leaves idle. On a CPU one after the other is faster (docs/performance.md).
"""

import jax
import jax.numpy as jnp
import numpy as np


class SideBySide:
    """Networks that learn classes by cross-entropy from logits, with the step of PyTorch's SGD.

        v = momentum v + g,   w = w - rate v

    Args:
        networks: New `keras.Model`s of one architecture. They keep their weights.
        momentum: Of that step. Default: 0.9.
    """

    def __init__(self, networks, momentum=0.9):
        network = networks[0]
        trainable, others = (
            [jnp.stack([variable.value for variable in variables]) for variables in zip(*of_each)]
            for of_each in zip(*((other.trainable_variables, other.non_trainable_variables) for other in networks))
        )
        self._state = trainable, others, [jnp.zeros_like(weight) for weight in trainable]

        def loss(trainable, others, x, y):
            logits, others, losses = network.stateless_call(trainable, others, x, training=True, return_losses=True)
            likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
            return sum(losses, -jnp.mean(likelihoods)), others

        def step(state, x, y, rate):
            trainable, others, velocities = state
            gradients, others = jax.grad(loss, has_aux=True)(trainable, others, x, y)
            velocities = [momentum * v + gradient for v, gradient in zip(velocities, gradients)]
            return [w - rate * v for w, v in zip(trainable, velocities)], others, velocities

        def probabilities(state, x):
            logits, _ = network.stateless_call(*state[:2], x, training=False)
            return jax.nn.softmax(logits)

        self._step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)), donate_argnums=0)
        self._probabilities = jax.jit(jax.vmap(probabilities, in_axes=(0, None)))

    def branch(self):
        """Another one, that goes on from here."""
        other = object.__new__(SideBySide)
        other.__dict__ |= {**self.__dict__, "_state": jax.tree.map(jnp.copy, self._state)}
        return other

    def fit(self, batches, rates, take=(), then=None):
        """Trains each network on batches of its own, one step for each rate.

        Args:
            batches: A `keras_fge.Batches` for each network, of one length; the steps are whole epochs of them.
            rates: The learning rate of each step.
            take: Steps, from 1, after which the function `then` is called.
        """
        steps = len(batches[0])
        for step, rate in enumerate(rates):
            if step % steps == 0:
                for data in batches:
                    data.on_epoch_begin()
            x, y = map(np.stack, zip(*(data[step % steps] for data in batches)))
            self._state = self._step(self._state, x, y, rate)
            if step % steps == steps - 1:
                for data in batches:
                    data.on_epoch_end()
            if step + 1 in take:
                then()
        jax.block_until_ready(self._state)  # JAX does not wait by itself.

    def predict(self, x, batch_size=1000):
        """The probabilities of each network, an array (networks, samples, classes)."""
        parts = [
            self._probabilities(self._state, x[first : first + batch_size]) for first in range(0, len(x), batch_size)
        ]
        return np.concatenate(parts, axis=1)
