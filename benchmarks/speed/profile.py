"""Where the time of a step goes: the operations of TensorFlow in profiles of the plain step and of steps on curves."""

import functools
import pathlib
import tempfile

import keras
import numpy as np

from speed.training import curves_of, images, network, steps_of
from speed.turns import in_turns, one_epoch

LAYERS, COMBINATION = "layers and their gradients", "combination of the bends and its gradient"
UPDATE, REST = "update of the weights", "rest: data, loss and metrics"


def profile(name, settings):
    """Milliseconds of a step by part: plain, and on curves of 3 and 5 bends. Medians of profiles that take turns."""
    if keras.backend.backend() != "tensorflow" or settings.jit_compile:
        raise ValueError(
            "--measure=profile reads the operations of TensorFlow without XLA: give KERAS_BACKEND=tensorflow and "
            "--nojit_compile."
        )
    steps = steps_of(name, settings)
    data, ends = images(settings, steps), [network(name, settings) for _ in range(2)]
    models = {"plain": ends[0], **curves_of(ends, settings)}
    parts = {LAYERS: ends[0].name, COMBINATION: "curve_model", UPDATE: "sgd"}  # Each with the begin of a scope.

    def profiled(epoch):
        sums = dict.fromkeys([*parts, REST], 0.0)
        for operation, seconds in _operations(epoch):
            sums[part_of(operation, parts)] += 1000 * seconds / steps
        return sums

    epochs = {case: one_epoch(model, *data, batch_size=settings.batch_size) for case, model in models.items()}
    turns = in_turns(settings.turns, {case: functools.partial(profiled, epoch) for case, epoch in epochs.items()})
    medians = {
        case: {part: float(np.median([s[part] for s in sums])) for part in sums[0]} for case, sums in turns.items()
    }
    return {"steps": steps, "ratios": {}, "milliseconds": medians}


def part_of(operation, parts):
    """The first of `parts`, {part: begin of a scope}, whose scope is in the name of an operation, else `REST`."""
    scopes = operation.lower().split("/")  # The optimizer of Keras 3.12 calls its scope "SGD".
    return next((part for part, begin in parts.items() if any(s.startswith(begin) for s in scopes)), REST)


def _operations(function):
    """(name, seconds) of each operation of compiled functions while `function` runs.

    The seconds can add up to more than the time that passed: operations run side by side.
    """
    import tensorflow
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tensorflow.profiler.experimental.start(folder)
        function()
        tensorflow.profiler.experimental.stop()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            operation = plane.event_metadata[event.metadata_id].name
            if operation.startswith("StatefulPartitionedCall/"):
                yield operation, event.duration_ps / 1e12
