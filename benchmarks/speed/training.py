"""What a training step costs: on a curve, against PyTorch by hand, under FGE, with transforms and from `Batches`."""

import contextlib
import itertools
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np

import curves
import keras_fge
from inputs.fused import BatchNormalization
from inputs.networks import make_network
from inputs.rows import CurveOnRows, NetworkOnRows, rows_of
from speed.turns import compared, later_epochs, one_epoch, spread, take_turns

BENCHMARKS = pathlib.Path(__file__).parents[1]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WEIGHT_DECAY = 5e-4
STEPS = {"vgg16": 2, "preresnet20": 4, "convfc": 10, "small_cnn": 20}


def images(settings, steps, size=32):
    """(x, y) of random uint8 images for so many steps."""
    count = steps * settings.batch_size
    x = np.random.default_rng(settings.seed).integers(0, 256, (count, size, size, 3), "uint8")
    return x, np.arange(count) % 10


def compiled(model, settings):
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=settings.jit_compile)
    return model


def network(name, settings, weight_decay=0.0, size=32, **options):
    return compiled(make_network(name, (size, size, 3), 10, weight_decay, **options), settings)


def steps_of(name, settings):
    return settings.steps or STEPS.get(name, 5)


def curves_of(ends, settings):
    """`{label: compiled curve between two networks}`, of 3 and 5 bends."""
    parametrizations = {f"curve of {bends}": curves.Bezier(bends) for bends in (3, 5)}
    return {
        label: compiled(curves.connect(*ends, parametrization, seed=settings.seed), settings)
        for label, parametrization in parametrizations.items()
    }


def curve(name, settings):
    """The step on curves of 3 and 5 bends against the plain step of the same network."""
    data = images(settings, steps_of(name, settings))
    models, references = {}, {}
    for label, decay in (("", 0.0), (", weight decay", WEIGHT_DECAY)):
        ends = [network(name, settings, decay) for _ in range(2)]
        models[f"plain{label}"] = ends[0]
        for case, model in curves_of(ends, settings).items():
            models[f"{case}{label}"] = model
            references[f"{case}{label}"] = f"plain{label}"
    works = {case: one_epoch(model, *data, batch_size=settings.batch_size) for case, model in models.items()}
    return {"steps": steps_of(name, settings), **compared(take_turns(settings.turns, works), references)}


def short_epochs(name, settings):
    """`fit` of a curve against that of a network, in epochs of four steps: at their end, a curve's remembers all."""
    data, ends = images(settings, 4), [network(name, settings) for _ in range(2)]
    models = {"plain": network(name, settings), "curve of 3": curves_of(ends, settings)["curve of 3"]}
    works = {
        case: later_epochs(model, data, list, epochs=8, batch_size=settings.batch_size)
        for case, model in models.items()
    }
    return {"steps": 4, **compared(take_turns(settings.turns, works), {"curve of 3": "plain"})}


class Handwritten:
    """`handwritten.py` in a process of its own, which makes some steps when it is asked to."""

    def __init__(self, name, settings, **options):
        arguments = {"network": name, "steps": steps_of(name, settings), "batch_size": settings.batch_size}
        arguments |= {**options, "seed": settings.seed}
        # Not as a file: torch would load its neighbour `profile` instead of Python's own.
        program = [settings.torch_python or sys.executable, "-m", "speed.handwritten"]
        command = [*program, *(f"--{k}={v}" for k, v in arguments.items())]
        places = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": places},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{shlex.join(map(str, self._process.args))} ended; it says above why.")
        return float(answer)

    def close(self):
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def peer(name, settings):
    """Our step, plain and on a curve, against the fastest of the same steps written by hand in PyTorch.

    By hand: in both memory layouts, with --compile also compiled.
    """
    data = images(settings, steps_of(name, settings))
    ends = [network(name, settings) for _ in range(2)]
    models = {"plain": ends[0], "curve": compiled(curves.connect(*ends, seed=settings.seed), settings)}
    half = keras.config.dtype_policy().name == "mixed_bfloat16"
    ways = {f"channels {place}": {"channels_last": place == "last"} for place in ("first", "last")}
    if settings.compile:
        ways |= {f"{way}, compiled": {**options, "compile": True} for way, options in ways.items()}
    by_hand = {
        f"{case} by hand, {way}": Handwritten(name, settings, curve=case == "curve", half=half, **options)
        for case in models
        for way, options in ways.items()
    }
    works = {case: one_epoch(model, *data, batch_size=settings.batch_size) for case, model in models.items()}
    try:
        seconds = take_turns(settings.turns, {**works, **by_hand})
    finally:
        for process in by_hand.values():
            process.close()
    best = {
        case: min((other for other in by_hand if other.startswith(case)), key=lambda o: np.median(seconds[o]))
        for case in models
    }
    return {"steps": steps_of(name, settings), **compared(seconds, best)}


def loop(name, settings):
    """On JAX: `fit` against loops by hand around its step, and against an epoch in one program.

    And that against `fit` on row numbers, also with FGE and of a curve, all steps of an epoch in one execution.
    """
    if keras.backend.backend() != "jax":
        raise ValueError("--measure=loop tries what only JAX has: KERAS_BACKEND=jax.")
    import jax

    x, y = images(settings, steps_of(name, settings))
    parts = (array.reshape(-1, settings.batch_size, *array.shape[1:]) for array in (x, y.astype("int32")))
    batches = jax.device_put(list(parts))
    model, several = network(name, settings), network(name, settings)
    several.steps_per_execution = 10
    arguments = {"batch_size": settings.batch_size}
    fit, fit_several = (one_epoch(each, x, y, **arguments) for each in (model, several))
    on_rows, with_fge = (network(name, settings, kind=NetworkOnRows) for _ in range(2))
    on_a_curve = curves.connect(model, several, seed=settings.seed)
    on_a_curve = compiled(CurveOnRows(on_a_curve.body, seed=settings.seed), settings)
    for each in (on_rows, with_fge, on_a_curve):
        each.steps_per_execution = len(batches[0])
        rows = rows_of(each, keras.ops.convert_to_tensor(x))
    fit()  # The optimizer has its variables now.
    kinds = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables

    def next_state(state, batch):
        logs, state = model.train_step(state, batch)
        return state, logs["loss"]

    one = jax.jit(next_state, donate_argnums=0)
    everything = jax.jit(lambda state, batches: jax.lax.scan(next_state, state, batches), donate_argnums=0)

    def timed(epoch):
        def run():
            state = [[jax.numpy.array(variable.value, copy=True) for variable in kind] for kind in kinds]
            state = jax.block_until_ready(tuple(state))
            begin = time.perf_counter()
            jax.block_until_ready(epoch(state))
            return time.perf_counter() - begin

        return run

    pairs = list(zip(*batches))

    def one_by_one(state):
        for batch in pairs:
            state, _ = one(state, batch)
        return state

    def from_the_host(state):
        for start in range(0, len(x), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            state, _ = one(state, (x[part], y[part]))
        return state

    works = {
        "fit": fit,
        "fit, 10 steps per execution": fit_several,
        "fit, rows, all steps per execution": one_epoch(on_rows, rows, y, **arguments),
        "FGE, rows, all steps per execution": later_epochs(
            with_fge, (rows, y), lambda: callbacks_of_fge(cycle_epochs=2), **arguments
        ),
        "curve of 3, rows, all steps per execution": one_epoch(on_a_curve, rows, y, **arguments),
        "loop by hand": timed(from_the_host),
        "loop by hand, images on the device": timed(one_by_one),
        "an epoch in one program": timed(lambda state: everything(state, batches)),
    }
    references = {case: "an epoch in one program" if "rows" in case else "fit" for case in works if case != "fit"}
    return {"steps": steps_of(name, settings), **compared(take_turns(settings.turns, works), references)}


def callbacks_of_fge(**arguments):
    return [keras_fge.FGE(0.001, 0.0001, **arguments)]


def fge(name, settings):
    """`fit` with FGE against `fit`: alone, with validation data, with a folder; and the times of what it writes.

    An epoch is the median of those after the first one, in which the step is compiled anew.
    """
    size = 8 if name == "preresnet164" else 32
    steps = settings.steps or (10 if name == "preresnet164" else 40)
    data, validation = images(settings, steps, size), images(settings, 4, size)

    def make():
        return network(name, settings, size=size)

    arguments, works, references = {"batch_size": settings.batch_size}, {}, {}
    with tempfile.TemporaryDirectory() as root:
        folders = (os.path.join(root, str(number)) for number in itertools.count())
        for label, more in (("", {}), (", validation data", {"validation_data": validation})):
            works[f"plain{label}"] = later_epochs(make(), data, list, **arguments, **more)
            cases = {f"FGE{label}": lambda: callbacks_of_fge(cycle_epochs=2)}
            if not more:
                cases["FGE, folder"] = lambda: callbacks_of_fge(cycle_epochs=2, directory=next(folders))
            for case, callbacks in cases.items():
                works[case] = later_epochs(make(), data, callbacks, **arguments, **more)
                references[case] = f"plain{label}"
        result = compared(take_turns(settings.turns, works), references)
        single = _times_of_writing(settings.turns, make, data, arguments, os.path.join(root, "single"))
    return {"steps": steps, **result, "single": single}


def _times_of_writing(count, make, data, arguments, folder):
    """Seconds that FGE takes at the end of the last epoch, where a state is always written, and until the first step.

    The first and the third epoch end with a snapshot, the second does not.
    """
    data = [array[: 2 * arguments["batch_size"]] for array in data]

    def run(epochs, **options):
        times = {}
        before = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: times.setdefault("first step", time.perf_counter()),
            on_epoch_end=lambda epoch, logs: times.update(begin=time.perf_counter()),
        )
        after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.update(end=time.perf_counter()))
        model, start = make(), time.perf_counter()
        callbacks = [before, *callbacks_of_fge(cycle_epochs=2, **options), after]
        model.fit(*data, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, **arguments)
        return times["end"] - times["begin"], times["first step"] - start

    values = {}
    for repeat in range(min(3, count)):
        values.setdefault("snapshot in memory", []).append(run(3)[0])
        values.setdefault("state in a folder", []).append(run(2, directory=f"{folder}/two_{repeat}")[0])
        three = f"{folder}/three_{repeat}"
        values.setdefault("snapshot and state in a folder", []).append(run(3, directory=three)[0])
        values.setdefault("begin of a resumed fit", []).append(run(4, directory=three, resume=True)[1])
        values.setdefault("begin of a new fit", []).append(run(1)[1])
    return {name: spread(seconds) for name, seconds in values.items()}


def pipeline(name, settings):
    """Random crop and flip in the step against none, and `Batches` against arrays in memory."""
    data = images(settings, steps_of(name, settings))
    common = {"batch_size": settings.batch_size}
    works = {
        "plain": one_epoch(network(name, settings), *data, **common),
        "crop and flip": one_epoch(network(name, settings, transform="vgg"), *data, **common),
        "Batches": one_epoch(network(name, settings), keras_fge.Batches(*data, settings.batch_size)),
    }
    if any(isinstance(layer, BatchNormalization) for layer in network(name, settings).layers):
        works["Keras' BatchNormalization"] = one_epoch(
            compiled(_with_layers_of_keras(network(name, settings)), settings), *data, **common
        )
    references = {case: "plain" for case in works if case != "plain"}
    return {"steps": steps_of(name, settings), **compared(take_turns(settings.turns, works), references)}


def _with_layers_of_keras(model):
    """The same network with BatchNormalization as Keras computes it."""

    def copied(layer):
        kind = keras.layers.BatchNormalization if isinstance(layer, BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copied)
