"""What Keras does not promise: its private names, and what differs from backend to backend.

Nothing else in this project uses a private name of Keras or, but for `derivatives`, asks which backend runs. Each
function says what the name stands for. All were read in, and tested with, the versions of Keras in `TESTED`; if a name
is missing, the function raises a `RuntimeError` that says so. What is absent from an object of Keras is never taken for
an answer.
"""

import contextlib
import dataclasses
import functools
import inspect
import random
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

TESTED = "3.12.0, 3.15.1 and the nightly 3.16.0.dev2026102704"
NEWEST_TESTED = (3, 16)


def keras_version() -> tuple[int, int]:
    """Major and minor version of Keras."""
    major, minor, *_ = keras.__version__.split(".")
    return int(major), int(minor)


@functools.cache  # Once in a process.
def warn_of_newer_keras() -> None:
    """Warns, the first time that it is called, if Keras is newer than those that this package was tested with."""
    if keras_version() > NEWEST_TESTED:
        warnings.warn(
            f"Keras {keras.__version__} is newer than those that this version of keras-fge was tested with: {TESTED}. "
            "Look for a newer keras-fge, or compare its results with those of an older Keras.",
            stacklevel=3,
        )


def scans_over_steps() -> bool:
    """Whether `fit` runs `steps_per_execution` steps as one scan: Keras on JAX does from 3.16 on."""
    return keras.backend.backend() == "jax" and keras_version() >= (3, 16)


_told_of_scan: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def warn_of_slow_scan(model: keras.Model) -> None:
    """Warns, once for a model, if `fit` runs several of its steps as one scan on a CPU.

    (A curve and a callback in one `fit` both ask.)
    """
    if not scans_over_steps() or model in _told_of_scan:
        return
    import jax

    if model.steps_per_execution > 1 and model.jit_compile and jax.default_backend() == "cpu":
        _told_of_scan.add(model)
        warnings.warn(
            f"Keras {keras.__version__} on JAX runs steps_per_execution={model.steps_per_execution} steps as one scan, "
            "in which convolutions are many times slower on a CPU: compile with steps_per_execution=1 there.",
            stacklevel=3,
        )


def _get(owner: Any, name: str) -> Any:
    """The attribute `name`, or an error that a user can act on."""
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = owner.__name__ if isinstance(owner, type) or inspect.ismodule(owner) else type(owner).__name__
        raise RuntimeError(
            f"Keras {keras.__version__} has no `{kind}.{name}`, which this version of keras-fge needs. "
            f"It was tested with Keras {TESTED}: install one of these, or a newer keras-fge."
        ) from None


def _private(*names: str) -> Any:
    """What is at `keras.src.(names)`."""
    return functools.reduce(_get, ("src", *names), keras)


def has(owner: Any, name: str, example: type) -> bool:
    """Whether `owner` has an attribute that only some classes of Keras have, such as `example`, or of a user's own.

    If `example` has it no more, Keras has renamed it, and that is an error, not a no.
    """
    _get(example, name)
    return hasattr(owner, name)


def has_lora(layer: keras.layers.Layer) -> bool:
    """Whether LoRA is enabled in `layer`."""
    if type(layer).__module__.split(".")[0] != "keras":  # KerasHub's backbones have the method alone.
        return bool(getattr(layer, "lora_enabled", False))
    return has(layer, "enable_lora", keras.layers.Dense) and bool(_get(layer, "lora_enabled"))


def lora_factors(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable] | None:
    """The factors (A, B) of a layer with LoRA: A B is added to its weight. None for a layer of others, if not known."""
    kind = _name_with_lora(layer)
    names = f"lora_{kind}_a", f"lora_{kind}_b"
    if type(layer).__module__.split(".")[0] != "keras" and not all(hasattr(layer, name) for name in names):
        return None
    return _get(layer, names[0]), _get(layer, names[1])


def sum_with_lora(layer: keras.layers.Layer) -> Any:
    """W + alpha / rank A B of a layer with LoRA, which Keras writes to a file in place of W, A and B."""
    return _get(layer, _name_with_lora(layer))


def _name_with_lora(layer):
    return "embeddings" if isinstance(layer, keras.layers.Embedding) else "kernel"


def is_functional(network: Any) -> bool:
    """Whether `network` is functional, which has no public name (`keras.src.models.Functional`)."""
    return isinstance(network, _private("models", "Functional"))


def has_graph(network: Any) -> bool:
    """Whether `network` is functional, or Sequential and built: it knows its inputs, outputs, and what is between."""
    is_sequential = isinstance(network, keras.Sequential) and has(network, "inputs", keras.Sequential)
    return is_sequential or is_functional(network)


def predicts_as_keras(network: keras.Model) -> bool:
    """Whether `predict` is Keras' own: no class has another one, as KerasHub's have with their preprocessing."""
    own = keras.Sequential if isinstance(network, keras.Sequential) else _private("models", "Functional")
    names = ("__call__", "call", "predict", "predict_on_batch", "predict_step", "make_predict_function")
    return all(_get(type(network), name) is _get(own, name) for name in names)


@contextlib.contextmanager
def nodes_kept(network: keras.Model) -> Iterator[None]:
    """Takes away the calls of operations of `network` that are added inside (`Operation._inbound_nodes`).

    A model made of inner tensors of a graph calls the operations once more; then they would have several outputs, and
    keep what hangs on them.
    """
    operations = {id(call[0]): call[0] for call in graph_of(network)}.values()
    counts = [(operation, len(_get(operation, "_inbound_nodes"))) for operation in operations]
    try:
        yield
    finally:
        for operation, count in counts:
            del _get(operation, "_inbound_nodes")[count:]


def uses_renorm(layer: keras.layers.BatchNormalization) -> bool:
    """Whether `layer` renormalizes batches, which Keras can from 3.14 on."""
    return keras_version() >= (3, 14) and bool(_get(layer, "renorm"))


def all_layers(network: keras.layers.Layer, include_self: bool = True) -> list[keras.layers.Layer]:
    """`network` and every layer inside it, at any depth (`Layer._flatten_layers`; public `layers` are one level)."""
    return list(_get(network, "_flatten_layers")(include_self=include_self))


def graph_of(model: keras.Model) -> list[tuple[Any, tuple, dict[str, Any], list[keras.KerasTensor]]]:
    """The graph of a functional or Sequential network: (operation, args, kwargs, outputs) of each call, in order.

    An operation is a layer, or a function of `keras.ops`. A tensor knows the call that it comes from
    (`KerasTensor._keras_history`, `Operation._inbound_nodes`).
    """
    calls, done, stack = [], {id(tensor) for tensor in model.inputs}, list(model.outputs)
    while stack:
        tensor = stack[-1]
        if id(tensor) in done:
            stack.pop()
            continue
        history = _get(tensor, "_keras_history")
        node = _get(history.operation, "_inbound_nodes")[history.node_index]
        missing = [source for source in node.input_tensors if id(source) not in done]
        stack.extend(missing)
        if not missing:
            calls.append((history.operation, node.arguments.args, node.arguments.kwargs, node.outputs))
            done.update(id(output) for output in node.outputs)
    return calls


@dataclasses.dataclass(frozen=True)
class Fit:
    """The `fit` that a callback is in, as `fit_around` saw it.

    Attributes:
        data: What it trains on, its argument `x`.
        validation_data, validation_steps: As it was given; of `validation_split`, the arrays that it made.
        initial_epoch: As it was given.
        iterator: What hands out the batches of `data` (`EpochIterator`).
        is_shuffled: Whether it takes them in an order of Keras' own; of no meaning for arrays.
        before, after: The callbacks before and after this one.
        callbacks: A weak reference to Keras' list of all, which lives as long as the `fit`, or a traceback of it.
    """

    data: Any
    validation_data: Any
    validation_steps: int | None
    initial_epoch: int
    iterator: Any
    is_shuffled: bool
    before: list[keras.callbacks.Callback]
    after: list[keras.callbacks.Callback]
    callbacks: weakref.ref


def fit_around(callback: keras.callbacks.Callback) -> Fit | None:
    """The `fit` that calls `callback` now; None if it cannot be seen, as inside a callback of another library.

    Keras tells a callback nothing of data and of other callbacks, so this reads the local variables of `fit`. It is the
    only place that does. If it returns None, the validation data of `fit` are not known, other callbacks are not
    checked, and SIGTERM after a `fit` that failed ends the program only when it comes a second time.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "fit" and str(frame.f_globals.get("__name__")).startswith("keras."):
            variables = frame.f_locals
            container = variables.get("callbacks")
            is_list = isinstance(container, keras.callbacks.CallbackList)
            listed: list[Any] = _get(container, "callbacks") if is_list else []
            if callback in listed:
                position = listed.index(callback)
                return Fit(
                    variables.get("x"),
                    variables.get("validation_data"),
                    variables.get("validation_steps"),
                    variables["initial_epoch"],
                    variables["epoch_iterator"],
                    bool(variables["shuffle"]),
                    listed[:position],
                    listed[position + 1 :],
                    weakref.ref(container),
                )
        frame = frame.f_back
    return None


_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "_last_batch_seen", "_batches_seen_since_last_saving"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def remembered(callback: keras.callbacks.Callback) -> dict[str, Any] | None:
    """What a callback of Keras remembers from epoch to epoch, by attribute; None for one of another origin."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, kind):
            values = {name: _get(callback, name) for name in names}
            return {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
    return {} if type(callback).__module__.startswith("keras.") else None


class _FirstEpoch(keras.callbacks.Callback):
    """Has `fit` begin with an epoch: the last callback to hear of its begin, and the first to hear of that epoch.

    So nothing can fail between the two, and leave the number to a later `fit`. That epoch may lack its first batches.
    """

    def __init__(self, epoch: int, done: int, listed: list, fit: Fit):
        super().__init__()
        self.listed: list | None = listed
        self.epoch, self.done, self.before = epoch, done, None
        self.iterator, self.skipped = fit.iterator, epoch - fit.initial_epoch

    def on_train_begin(self, logs=None):
        if self.listed:  # Once, if it is a list of the user's own, for several fits.
            self.listed.remove(self)
            self.listed.insert(0, self)
            self.before, self.model._initial_epoch = self.model._initial_epoch, self.epoch
            _skip_epochs(_get(self.iterator, "data_adapter"), self.skipped)
            if self.done:
                self._leave_out(self.done)

    def on_epoch_begin(self, epoch, logs=None):
        if self.listed:
            self.model._initial_epoch, self.listed = self.before, None

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_end()

    def on_train_end(self, logs=None):
        self.on_epoch_begin(self.epoch)  # If no epoch was left.
        if self.iterator and self.done:
            self._leave_out(0)
        self.iterator = None

    def _leave_out(self, done):
        """Has the `EpochIterator` take the batches from the number `done` on; of a `PyDatasetAdapter` only."""
        adapter = _get(self.iterator, "data_adapter")
        data = _get(adapter, "py_dataset")
        data = data.whole if isinstance(data, _Rest) else data
        adapter.py_dataset = _Rest(data, done) if done else data
        _get(self.iterator, "_num_batches")
        self.iterator._num_batches = len(data) - done


class _Rest(keras.utils.PyDataset):
    """The batches of a data set from the number `done` on."""

    def __init__(self, whole: keras.utils.PyDataset, done: int):
        super().__init__()
        self.whole, self.done = whole, done

    def __len__(self):
        return len(self.whole) - self.done

    def __getitem__(self, index):
        return self.whole[self.done + index]

    def on_epoch_begin(self):
        self.whole.on_epoch_begin()

    def on_epoch_end(self):
        self.whole.on_epoch_end()


def _skip_epochs(adapter, count):
    """From Keras 3.16 on, batches of a `PyDataset` are shuffled by a count of epochs (`PyDatasetAdapter._epoch`)."""
    kind = _private("trainers", "data_adapters", "py_dataset_adapter", "PyDatasetAdapter")
    if keras_version() >= (3, 16) and isinstance(adapter, kind):
        adapter._epoch = _get(adapter, "_epoch") + count


def begin_with_epoch(model: keras.Model, epoch: int, fit: Fit | None, done: int = 0) -> None:
    """Lets the `fit` that `model` is in begin with `epoch`, whatever its `initial_epoch` (`Trainer._initial_epoch`).

    `fit` reads that attribute after every callback's `on_train_begin`. If `fit` cannot be seen, it stays until
    `begin_with_epoch(model, 0, None)` is called. If `done` batches of the epoch are done, `fit` asks for the others
    only (`EpochIterator._num_batches`).
    """
    _get(model, "_initial_epoch")
    listed = fit.callbacks() if fit else None
    if fit is None or listed is None:
        model._initial_epoch = epoch
        if epoch and keras_version() >= (3, 16):
            warnings.warn(
                "`fit` cannot be seen from this callback, so Keras shuffles the batches of a `PyDataset`, as `Batches` "
                "are, as if training began: give shuffle=False to `fit`, or the run does not go on exactly.",
                stacklevel=4,
            )
        return
    first = _FirstEpoch(epoch, done, listed.callbacks, fit)
    first.set_model(model)
    listed.callbacks.append(first)


@contextlib.contextmanager
def compiled_loss_lent(owner: keras.Model, network: keras.Model) -> Iterator[None]:
    """Inside, `network.compute_loss` has the loss with which `owner` is compiled (`Trainer._compile_loss`)."""
    own = _get(network, "_compile_loss")
    vars(network)["_compile_loss"] = _get(owner, "_compile_loss")  # Not by `setattr`: Keras would track it.
    try:
        yield
    finally:
        vars(network)["_compile_loss"] = own


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """The arguments that a compiled `model` got, the objects themselves (`Trainer._compile_config`)."""
    return dict(_get(_get(model, "_compile_config"), "config"))


def forget_optimizer(model: keras.Model) -> None:
    """Has a file of `model`, which trains nothing, name no class of an optimizer: torch's needs torch to be loaded."""
    _get(_get(model, "_compile_config"), "config")["optimizer"] = "rmsprop"


def shorten_progress(fit: Fit, names: Iterable[str]) -> None:
    """Has the progress bar of `fit` leave out the logs `names` at the end of an epoch; other callbacks have them."""
    hidden = frozenset(names)
    for callback in (*fit.before, *fit.after):
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            vars(callback)["on_epoch_end"] = functools.partial(_show_epoch, callback, hidden)


def _show_epoch(callback, hidden, epoch, logs=None):
    shown = {name: value for name, value in (logs or {}).items() if name not in hidden}
    type(callback).on_epoch_end(callback, epoch, shown)


def belongs_to_backend(module: str | None) -> bool:
    """Whether a class is one of those that Keras has for a single backend, by the module that its configuration names.

    On torch, `keras.optimizers.SGD` makes one of these, and what Keras saves of it can be loaded there alone.
    """
    return str(module).startswith("keras.src.backend.")


def build_metrics(model: keras.Model, batch: tuple) -> None:
    """Makes the variables of the compiled loss and metrics of `model`, by a batch (`Trainer._symbolic_build`)."""
    _get(model, "_symbolic_build")(data_batch=batch)


@contextlib.contextmanager
def losses_lent(owner: keras.Model, network: keras.Model) -> Iterator[None]:
    """Inside, `network.losses` are those of the last call of `owner`, which JAX keeps there (`_losses_override`)."""
    own = _get(network, "_losses_override")
    vars(network)["_losses_override"] = list(_get(owner, "_losses_override"))  # Not by `setattr`: Keras would track it.
    try:
        yield
    finally:
        vars(network)["_losses_override"] = own


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that makes the updates: the one inside a `LossScaleOptimizer`, or `optimizer` itself."""
    is_outer = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return _get(optimizer, "inner_optimizer") if is_outer else optimizer


def track_all_variables(optimizer: keras.optimizers.Optimizer) -> None:
    """Has `optimizer.variables` hold all that an update changes (`Optimizer._track_variable`).

    A `LossScaleOptimizer` builds its inner one without tracking, which leaves out variables that are plain attributes,
    such as Nadam's product of momenta: no checkpoint of Keras has it, and on JAX each update begins with 1 again.
    """
    inner = inner_optimizer(optimizer)
    tracked = {id(variable) for variable in inner.variables}
    for value in list(vars(inner).values()):
        if isinstance(value, keras.Variable) and id(value) not in tracked:
            _get(inner, "_track_variable")(value)


def has_one_learning_rate(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` steps with one learning rate; of a `MultiOptimizer`, reading that is an error."""
    return isinstance(optimizer, keras.optimizers.Optimizer) and has(
        optimizer, "learning_rate", keras.optimizers.Optimizer
    )


@contextlib.contextmanager
def learning_rate_replaced(optimizer: keras.optimizers.Optimizer, schedule: Any) -> Iterator[None]:
    """Inside, `optimizer` steps with `schedule`; outside, it has the learning rate it had (`Optimizer._learning_rate`).

    The public setter would drop the learning rate variable for good, so that checkpoints of the optimizer no longer
    match, and would refuse a number afterwards.
    """
    own = _get(optimizer, "_learning_rate")
    optimizer._learning_rate = schedule
    try:
        yield
    finally:
        optimizer._learning_rate = own


def own_learning_rate(optimizer: keras.optimizers.Optimizer) -> float | None:
    """The learning rate of `optimizer`, if it is a number that can be set, and no schedule."""
    own = _get(optimizer, "_learning_rate")
    return float(ops.convert_to_numpy(own.value)) if isinstance(own, keras.Variable) else None


def last_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the last update of `optimizer`, or of the first, if there was none."""
    own = _get(optimizer, "_learning_rate")
    if isinstance(own, keras.optimizers.schedules.LearningRateSchedule):
        own = own(max(optimizer_calls(optimizer) - 1, 0))
    elif callable(own):
        own = own()
    return float(ops.convert_to_numpy(own))


def has_momentum(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` folds the learning rate into a velocity: v = m v - lr g, as Keras' SGD and RMSprop do."""
    kinds = (keras.optimizers.SGD, keras.optimizers.RMSprop)
    return isinstance(optimizer, kinds) and optimizer.momentum > 0


def averages_weights(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` is a `ScheduleFreeAdamW`, which Keras has from 3.14 on."""
    return keras_version() >= (3, 14) and isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW)


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> list[tuple[keras.Variable, Any]]:
    """(variable, value) of the weights x that an optimizer which `averages_weights` means.

    It averages iterates z into x, to be used after the training. It trains, and leaves in the network,
    y = (1 - beta_1) z + beta_1 x, and never puts x there (z is `_momentums`).
    """
    if not optimizer.built:
        return []
    pairs = zip(_get(optimizer, "_trainable_variables"), _get(optimizer, "_momentums"))
    return [(y, z.value + (y.value - z.value) / optimizer.beta_1) for y, z in pairs if z is not None]


def velocities(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The velocities of an optimizer that `has_momentum`, once it has made them (`RMSprop._momentums`)."""
    if not optimizer.built:
        return []
    return optimizer.momentums if isinstance(optimizer, keras.optimizers.SGD) else _get(optimizer, "_momentums")


@contextlib.contextmanager
def velocities_scaled(optimizer: keras.optimizers.Optimizer, factor: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, each update of `optimizer` first multiplies its velocities by `factor(calls of the optimizer before)`.

    (`Optimizer._backend_update_step` makes one update of all variables; it calls `update_step` for each, within the
    scope of a distribution, or, on torch, often another method for all. `_get_variable_index` finds a velocity.)
    """
    own_backend, own_step = _get(optimizer, "_backend_update_step"), optimizer.update_step
    find = _get(optimizer, "_get_variable_index")

    def scale(variable, value):
        velocity = velocities(optimizer)[find(variable)]
        optimizer.assign(velocity, velocity * ops.cast(value, velocity.dtype))

    def update_all(gradients, variables, learning_rate):
        value = factor(_get(optimizer, "_iterations").value)
        if keras.backend.backend() == "torch":
            for variable in variables:
                scale(variable, value)
            own_backend(gradients, variables, learning_rate)
            return

        def update_one(gradient, variable, learning_rate):
            scale(variable, value)
            own_step(gradient, variable, learning_rate)

        vars(optimizer)["update_step"] = update_one
        try:
            own_backend(gradients, variables, learning_rate)
        finally:
            vars(optimizer).pop("update_step", None)  # Each replica of a distribution comes here.

    vars(optimizer)["_backend_update_step"] = update_all  # Not by `setattr`: Keras would track it.
    try:
        yield
    finally:
        del vars(optimizer)["_backend_update_step"]


def optimizer_calls(optimizer: keras.optimizers.Optimizer) -> int:
    """How often `optimizer` was called: its updates, or its batches if it accumulates gradients.

    (`Optimizer._iterations`; the public `iterations` counts accumulated updates.)
    """
    return int(ops.convert_to_numpy(_get(optimizer, "_iterations").value))


def train_function(model: keras.Model) -> Callable | None:
    """The compiled function that `fit` calls for every execution (`Trainer.train_function`); None before the first."""
    return _get(model, "train_function")


def set_train_function(model: keras.Model, function: Callable | None) -> None:
    """Makes `fit` call `function` for the next execution: Keras looks the attribute up each time."""
    _get(model, "train_function")
    model.train_function = function


def new_train_function(model: keras.Model) -> Any:
    """A compiled train function of its own for `model`, whose present one stays in place."""
    _get(model, "train_function")
    step = model.train_step
    # JAX finds the trace of an equal function again, and a method always equals itself; hence the detour.
    with _replaced(model, train_step=lambda *args: step(*args), train_function=None):
        model.make_train_function()
        return train_function(model)


@contextlib.contextmanager
def _replaced(model, **attributes):
    """Inside, `model` has these attributes; afterwards, those that it had, or those of its class."""
    missing = object()
    before = {name: vars(model).get(name, missing) for name in attributes}
    try:
        for name, value in attributes.items():
            _get(model, name)
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            if value is not missing:
                setattr(model, name, value)
            elif name in vars(model):
                delattr(model, name)


# --- Backends ---------------------------------------------------------------------------------------------------------


def is_stateless() -> bool:
    """Whether the backend passes the variables of a model through its train step, as JAX does."""
    return keras.backend.backend() == "jax"


def is_replicated(model: keras.Model) -> bool:
    """Whether several replicas of `model` share each batch, by a `tf.distribute.Strategy`."""
    return keras.backend.backend() == "tensorflow" and model.distribute_strategy.num_replicas_in_sync > 1


def random_states() -> dict[str, Any]:
    """The states of the global generators of Python, numpy and torch, which shuffle Keras' arrays on JAX and torch."""
    name, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}
    if keras.backend.backend() == "torch":
        import torch

        states["torch"] = torch.get_rng_state().tolist()
        states["cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]  # None without a GPU.
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Brings the global generators to `states`, as `random_states` returned them, also by way of JSON."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    if keras.backend.backend() == "torch" and "torch" in states:
        import torch

        torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.tensor(state, dtype=torch.uint8) for state in states["cuda"]])


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Draws nothing from the global generators: as a layer is made, Keras takes a seed from Python's."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)
