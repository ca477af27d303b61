"""Progress on the screen: a bar for each task, or a line in a log file."""

import contextlib
import sys

import keras
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(width=None if sys.stdout.isatty() else 110)


class Ticker(keras.callbacks.Callback):
    """Moves the bar of one `fit`, epoch by epoch.

    Args:
        show: Function that takes the number of finished epochs.
        first_epoch: First epoch of the task. Default: 0.
    """

    def __init__(self, show, first_epoch=0):
        super().__init__()
        self.show, self.first_epoch = show, first_epoch

    def on_epoch_end(self, epoch, logs=None):
        self.show(epoch + 1 - self.first_epoch)


class ProgressBars:
    """One bar for each task of a run."""

    def __init__(self):
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def task(self, description, epochs=None, first_epoch=0):
        """Shows a task; yields a `Ticker` for a training from `first_epoch` to `epochs`."""
        total = None if epochs is None else epochs - first_epoch
        task = self._bars.add_task(description, total=total)
        yield Ticker(lambda count: self._bars.update(task, completed=count), first_epoch)
        total = total or 1
        self._bars.update(task, total=total, completed=total)

    def finished(self, number, count, name, seconds, seconds_left):
        """Notes in a log file, which shows no bars, that a unit of work is done; what took no time needs no line."""
        if not console.is_terminal and seconds >= 0.5:
            left = f"about {seconds_left / 60:.0f} min left" if seconds_left >= 60 else "less than a minute left"
            console.print(f"unit {number} of {count}, {name}: {seconds:.0f} s; {left}")

    def failed(self, name, error):
        """Says that a unit ended with an error, and that the others go on."""
        console.print(f"[red]{name} failed:[/red] {escape(str(error))} The others go on.")

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *_):
        self._bars.stop()
