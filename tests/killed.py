"""Programs that run in a process of their own, which kills itself at a chosen moment."""

import json
import os
import time

import processes
from study.machine import environment

# Before the program. Its arguments are a folder, KILL and a seed. The process kills itself at its KILL-th event: a step
# of a training, a moment before or after a file gets its name, or is synced.
PREAMBLE = """
import json, os, runpy, signal, sys
import keras, numpy as np
import curves, keras_fge
from conftest import batch_norm_network, images, logits_loss

folder, kill, seed = sys.argv[1], *map(int, sys.argv[2:])
events = 0
def event():
    global events
    events += 1
    if events == kill:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(owner, name):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        event()
        result = function(*args, **kwargs)
        event()
        return result
    setattr(owner, name, call)
for owner, name in ((os, "replace"), (os, "fsync"), (keras.callbacks.CallbackList, "on_train_batch_begin")):
    watched(owner, name)

keras.utils.set_random_seed(seed)
x, y = images()
network = batch_norm_network()
"""

# After a program that trains `network`: all that is left goes to a file.
SAVE = """
variables = network.variables + network.optimizer.variables
np.savez(folder + "/end.npz", *[keras.ops.convert_to_numpy(v.value) for v in variables])
"""

# After all: the number of events goes to the output.
END = """
print(events)
"""


def note(**result):
    """Adds a line with the result to the file that KFGE_RECORD names, if it is in the environment."""
    if path := os.environ.get("KFGE_RECORD"):
        with open(path, "a") as file:
            file.write(json.dumps({**result, **environment(), "finished": time.strftime("%Y-%m-%d")}) + "\n")


def run(program, folder, kill=0, seed=0):
    """Runs it; with `kill` 0 to its end."""
    return processes.run(PREAMBLE + program + END, str(folder), str(kill), str(seed))
