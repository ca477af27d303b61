"""Programs that run in a process of their own, which kills itself at a chosen moment."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# Before the program. Its arguments are a folder, KILL and a seed. The process kills itself at its KILL-th event: a step
# of a training with `Steps`, or a moment before or after a file gets its name.
PREAMBLE = """
import json, os, signal, sys
import keras, numpy as np
sys.path.insert(0, "tests")
import keras_fge
from conftest import batch_norm_network, images, logits_loss

events, replace = 0, os.replace
def event(*args):
    global events
    events += 1
    if events == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
def watched_replace(*args):
    event()
    replace(*args)
    event()
os.replace = watched_replace

class Steps(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        event()

folder = sys.argv[1]
keras.utils.set_random_seed(int(sys.argv[3]))
x, y = images()
network = batch_norm_network()
"""

# After it. All that the training has left goes to a file, and the number of events to the output.
END = """
variables = network.variables + network.optimizer.variables
np.savez(folder + "/end.npz", *[keras.ops.convert_to_numpy(v.value) for v in variables])
print(events)
"""


def run(program, folder, kill=0, seed=0):
    """Runs it; with `kill` 0 to its end."""
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + program + END, str(folder), str(kill), str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
