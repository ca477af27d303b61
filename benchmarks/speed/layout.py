"""On torch, Keras copies the images before each convolution and pooling: what a step would take without.

Keras keeps images with the channels last, which torch only has as a permuted view. Keras makes the view contiguous, and
then, for a convolution, brings it into the order of the channels last again: two copies that change nothing.
"""

import contextlib
from unittest import mock

import keras
import numpy as np

from speed.training import Handwritten, images, network, steps_of
from speed.turns import compared, one_epoch, take_turns


def layout(name, settings):
    """Keras' step with and without these copies, and by hand, in turns."""
    if keras.backend.backend() != "torch":
        raise ValueError("--measure=layout is about Keras on torch: KERAS_BACKEND=torch.")
    data = images(settings, steps_of(name, settings))
    step = one_epoch(network(name, settings), *data, batch_size=settings.batch_size)
    without = one_epoch(network(name, settings), *data, batch_size=settings.batch_size)

    def step_without():
        with no_copies():
            return without()

    by_hand = {
        f"by hand, channels {place}": Handwritten(name, settings, channels_last=place == "last")
        for place in ("first", "last")
    }
    try:
        seconds = take_turns(settings.turns, {"Keras": step, "Keras without copies": step_without, **by_hand})
    finally:
        for process in by_hand.values():
            process.close()
    best = min(by_hand, key=lambda way: np.median(seconds[way]))
    return {"steps": steps_of(name, settings), **compared(seconds, {"Keras": best, "Keras without copies": best})}


@contextlib.contextmanager
def no_copies():
    """Leaves images as they are where Keras asks for contiguous ones; yields the shapes of those, as they come."""
    import torch

    contiguous, left_out = torch.Tensor.contiguous, []

    def unless_channels_are_last(tensor, *args, **kwargs):
        is_view = not (args or kwargs) and tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        if not is_view:
            return contiguous(tensor, *args, **kwargs)
        left_out.append(tuple(tensor.shape))
        return tensor

    with mock.patch.object(torch.Tensor, "contiguous", unless_channels_are_last):
        yield left_out
