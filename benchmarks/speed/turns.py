"""Side by side: pieces of work take turns on the machine, so that what else runs there meets all of them alike."""

import contextlib
import functools
import gc
import time

import keras
import numpy as np


def in_turns(count, functions):
    """Calls each of `{name: function}` in turn, and returns `{name: [what it returned in each turn]}`.

    The first turn, which compiles, is left out.
    """
    for function in functions.values():
        function()
    returned = {name: [] for name in functions}
    with _set_aside():
        for _ in range(count):
            for name, function in functions.items():
                returned[name].append(function())
    return returned


def take_turns(count, functions):
    """`in_turns` for seconds: those that a function returns, or those of the call."""
    return in_turns(count, {name: functools.partial(_seconds, function) for name, function in functions.items()})


def later_epochs(model, data, callbacks, epochs=4, **arguments):
    """A function that trains `model`, and returns the median seconds of all epochs of that `fit` but the first.

    Args:
        callbacks: Function that returns the callbacks of a `fit`, whose time counts.
    """

    def fit():
        times = []
        first = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: times.append(-time.perf_counter()))
        last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()))
        everything = [first, *callbacks(), last]
        model.fit(*data, epochs=epochs, verbose=0, shuffle=False, callbacks=everything, **arguments)
        return float(np.median(np.add(times[::2], times[1::2])[1:]))

    return fit


def one_epoch(model, *data, **arguments):
    """A function that trains `model` for one epoch, and returns its seconds, without what `fit` does before and after.

    (A curve's own `fit` remembers the values at the end of each epoch; `Model.fit` does not.)
    """

    def epoch():
        times = []
        clock = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: times.append(time.perf_counter()),
            on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()),
        )
        keras.Model.fit(model, *data, verbose=0, shuffle=False, callbacks=[clock], **arguments)
        return times[1] - times[0]

    return epoch


@contextlib.contextmanager
def _set_aside():
    """What is there already is not searched for garbage, which takes a second when graphs are large."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _seconds(function):
    begin = time.perf_counter()
    own = function()
    return own if isinstance(own, float) else time.perf_counter() - begin


def spread(values):
    """{"median", "low", "high"}: the median and the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def compared(seconds, references):
    """Median and quartiles of the seconds of each piece of work, and of its ratio to another in the same turn.

    "fastest" is the ratio of the fastest turns: what else runs on the machine only ever adds time.

    Args:
        seconds: What `take_turns` returns.
        references: `{name: name of the work that it is compared to}`.
    """
    ratios = {name: np.divide(seconds[name], seconds[other]) for name, other in references.items()}
    fastest = {name: float(np.min(seconds[name]) / np.min(seconds[other])) for name, other in references.items()}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {
            name: {"to": references[name], **spread(values), "fastest": fastest[name]}
            for name, values in ratios.items()
        },
        "turns": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
    }
