"""Side by side: pieces of work take turns on the machine, so that what else runs there meets all of them alike."""

import contextlib
import gc
import time

import keras
import numpy as np


def take_turns(count, functions):
    """Calls each of `{name: function}` in turn, and returns `{name: [seconds of each turn]}`.

    A first turn, in which things are compiled, is left out.
    """
    seconds = {name: [] for name in functions}
    _one_turn(functions, seconds)
    with _without_old_garbage():
        for _ in range(count):
            _one_turn(functions, seconds)
    return {name: values[1:] for name, values in seconds.items()}


def take_turns_in_fit(count, name, model, data, functions, callbacks=(), **arguments):
    """The same, with one `fit` of `model` that must not be split: each of its epochs is a turn.

    `callbacks` are those of the fit, and belong to its time.
    """
    seconds = {key: [] for key in (name, *functions)}

    def begin(epoch, logs):
        _one_turn(functions, seconds)
        seconds[name].append(-time.perf_counter())

    def end(epoch, logs):
        seconds[name][-1] += time.perf_counter()

    first, last = keras.callbacks.LambdaCallback(begin), keras.callbacks.LambdaCallback(on_epoch_end=end)
    callbacks = [first, *callbacks, last]
    with _without_old_garbage():
        model.fit(*data, epochs=count + 1, verbose=0, shuffle=False, callbacks=callbacks, **arguments)
    return {key: values[1:] for key, values in seconds.items()}


def one_epoch(model, *data, **arguments):
    """The function that trains `model` for one epoch."""
    return lambda: model.fit(*data, verbose=0, shuffle=False, **arguments)


@contextlib.contextmanager
def _without_old_garbage():
    """Inside, what is there already is not searched for garbage, which takes a second when graphs are large."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _one_turn(functions, seconds):
    for name, function in functions.items():
        begin = time.perf_counter()
        function()
        seconds[name].append(time.perf_counter() - begin)


def spread(values):
    """{"median", "low", "high"}: the median and the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def compared(seconds, references):
    """Median and quartiles of the seconds of each piece of work, and of its ratio to another in the same turn.

    Args:
        seconds: What `take_turns` returns.
        references: `{name: name of the work that it is compared to}`.
    """
    ratios = {name: np.divide(seconds[name], seconds[other]) for name, other in references.items()}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {name: {"to": references[name], **spread(values)} for name, values in ratios.items()},
        "turns": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
    }
