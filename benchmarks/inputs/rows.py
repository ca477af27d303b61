"""Networks and curves that train on row numbers: the images stay on the device, and each step gathers its own there.

`fit` hands over a few bytes a step, and from Keras 3.16 on JAX it runs the steps of an execution as one program.
Crops and flips are in the step already (`inputs.transforms`).
"""

import keras
import numpy as np

import curves


@keras.saving.register_keras_serializable("keras_fge_benchmarks")
class NetworkOnRows(keras.Model):
    """A functional network of images, which also takes row numbers of `images`, a tensor of all, shape `(batch,)`."""

    images = None
    input_spec = None  # That of images would refuse the numbers.

    def call(self, inputs, training=None, mask=None):
        return super().call(images_of(self, inputs), training=training, mask=mask)


class CurveOnRows(curves.CurveModel):
    """A curve that also takes row numbers of `images`, as `NetworkOnRows`."""

    images = None

    def call(self, inputs, training=None):
        return super().call(images_of(self, inputs), training=training)


def images_of(model, inputs):
    """The images themselves, or those of these rows of `model.images`."""
    return keras.ops.take(model.images, inputs, axis=0) if len(inputs.shape) == 1 else inputs


def rows_of(model, images):
    """The row numbers to train `model` on; it holds `images`, a tensor on the device, from now on.

    They are no variable, as snapshots and states are to hold weights only.
    """
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_use_simplified_jaxpr_constants", True)  # Else a copy would be a part of the program.
    model.images = images
    return np.arange(len(images), dtype="int32")
