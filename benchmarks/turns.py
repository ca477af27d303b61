"""Side by side: pieces of work that take turns on the machine, so that what else runs there meets all of them alike."""

import threading
import time

import keras
import numpy as np


class Turns:
    """Runs several pieces of work, each in a thread of its own, of which one at a time is let through.

    Attributes:
        seconds: `{name: [seconds of each turn]}`; the first turn, in which things are compiled, is left out.

    Example:
        turns = Turns(5)
        seconds = turns.run({"plain": turns.of(plain), "FGE": lambda turn: network.fit(x, y, callbacks=[turn])})
    """

    def __init__(self, count):
        self.count = count
        self._order, self._error = [], None
        self._change = threading.Condition()

    def of(self, function):
        """The work of calling `function()` once in each turn."""

        def work(turn):
            for _ in range(self.count + 1):
                turn.begin()
                function()
                turn.end()

        return work

    def of_fit(self, model, *data, callbacks=(), **arguments):
        """The work of one `fit`, with an epoch for each turn; `callbacks` belong to what is timed."""

        def work(turn):
            first, last = TurnBegins(turn), TurnEnds(turn)
            epochs = self.count + 1
            model.fit(*data, epochs=epochs, verbose=0, shuffle=False, callbacks=[first, *callbacks, last], **arguments)

        return work

    def run(self, works):
        """Runs `{name: work}`; each work is called with its `Turn`, and must take `count + 1` turns."""
        turns = [Turn(self, name) for name in works]
        self._order = list(turns)
        threads = [threading.Thread(target=self._work, args=pair) for pair in zip(works.values(), turns)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error:
            raise self._error
        return {turn.name: turn.seconds[1:] for turn in turns}

    def _work(self, work, turn):
        try:
            work(turn)
        except BaseException as error:
            self._error = self._error or error
        with self._change:
            if turn in self._order:
                self._order.remove(turn)
            self._change.notify_all()

    def wait_for(self, turn):
        with self._change:
            self._change.wait_for(lambda: self._error or self._order[0] is turn)
            if self._error:
                raise InterruptedError("another piece of work has failed")

    def pass_on(self):
        with self._change:
            self._order.append(self._order.pop(0))
            self._change.notify_all()


class Turn:
    """One piece of work's place in the order."""

    def __init__(self, turns, name):
        self.turns, self.name, self.seconds = turns, name, []

    def begin(self):
        self.turns.wait_for(self)
        self._begin = time.perf_counter()

    def end(self):
        self.seconds.append(time.perf_counter() - self._begin)
        self.turns.pass_on()


class TurnBegins(keras.callbacks.Callback):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def on_epoch_begin(self, epoch, logs=None):
        self.turn.begin()


class TurnEnds(keras.callbacks.Callback):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def on_epoch_end(self, epoch, logs=None):
        self.turn.end()


def spread(values):
    """{"median", "low", "high"}: the median and the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def compared(seconds, references):
    """Median and quartiles of the seconds of each piece of work, and of its ratio to another in the same turn.

    Args:
        seconds: What `Turns.run` returns.
        references: `{name: name of the work that it is compared to}`.
    """
    ratios = {name: np.divide(seconds[name], seconds[other]) for name, other in references.items()}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {name: {"to": references[name], **spread(values)} for name, values in ratios.items()},
        "turns": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
    }
