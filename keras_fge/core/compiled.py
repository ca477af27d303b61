"""What a model is compiled with: its losses, which tell what its outputs are, and its own metrics."""

import contextlib
import inspect
import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.keras_internals import has_graph, is_functional
from keras_fge.core.mixture import gaussian_nll
from keras_fge.core.networks import read, regularization
from keras_fge.core.output import are_probabilities
from keras_fge.core.tasks import Outputs, output_names

AS_COMPILED = "as compiled"


def compiled_outputs(
    model: keras.Model, predictions: Any = None, from_logits: Any = AS_COMPILED, task: Any = None
) -> Outputs:
    """What `model` outputs: what a user says; else what the compiled losses say; else what the outputs show.

    Args:
        model: A compiled model.
        predictions: Its predictions on some data. Where a loss does not tell, probabilities are known by their sums.
        from_logits, task: What the user says; see `Outputs`.

    Raises:
        ValueError: if none of these tells.
    """
    losses = model.loss
    # The outputs of a class of one's own are not known before it is called.
    output = model.output if is_functional(model) else model.outputs if has_graph(model) else None
    if isinstance(losses, dict) and not isinstance(output, dict):
        losses = [losses.get(name) for name in output_names(model)]
    losses = keras.tree.flatten(losses)
    tensors = keras.tree.flatten(output)  # One loss may stand for all.
    arrays = [None] if predictions is None else [np.asarray(array) for array in keras.tree.flatten(predictions)]
    given = [list(value) if isinstance(value, (list, tuple)) else [value] for value in (from_logits, task)]
    count = max(map(len, (losses, arrays, *given)))
    columns = [itertools.islice(itertools.cycle(values), count) for values in (losses, tensors, arrays, *given)]
    answers = [_answer(*row) for row in zip(*columns, strict=True)]
    return Outputs(*(values[0] if count == 1 else list(values) for values in zip(*answers)))


def _answer(loss, tensor, array, from_logits, task):
    """(from_logits, task) of one output."""
    if task in ("regression", "gaussian"):
        return None, task
    width = (tensor if array is None else array).shape[-1] if tensor is not None or array is not None else None
    said = said_by_loss(loss, width)
    if from_logits == AS_COMPILED:
        if said and not (task and said[0] is None):
            from_logits = said[0]
        elif array is not None and task != "multilabel" and are_probabilities(array):
            from_logits = False
        elif array is not None and task == "multilabel":
            from_logits = not np.all((array >= 0) & (array <= 1))
        else:
            raise ValueError(
                f"Say `from_logits=True`, `False` or `None` (for values), to the callback, to `ensemble()` or to "
                f"`Ensemble`: the loss {loss!r} does not tell what the network outputs."
            )
    if task is None and said and (from_logits is not None or said[1] == "gaussian"):
        task = said[1]
    return from_logits, task


def said_by_loss(loss, width):
    """(from_logits, task), or None if a loss does not tell; a task of None follows from the other."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if loss is None:
        return None, None
    if loss is gaussian_nll:
        return None, "gaussian"
    name, is_of_keras, options = _options_of(loss)
    if "from_logits" in options:
        from_logits = options["from_logits"]
    elif not is_of_keras:
        return None
    elif name in OF_PROBABILITIES:
        from_logits = False
    elif "crossentropy" in name or name.startswith("ctc"):  # It has that option by another name, or takes logits alone.
        return None
    else:
        from_logits = None
    # Several columns of a binary loss are labels that do not exclude each other.
    return from_logits, "multilabel" if name.startswith("binary") and width != 1 else None


# Losses of Keras' own that take probabilities, and have no `from_logits`.
OF_PROBABILITIES = ("kldivergence", "categoricalgeneralizedcrossentropy")


def _options_of(loss):
    """(its name in small letters, whether it is one of Keras' own, its options) of a loss.

    A loss need not have an option as an attribute, but what Keras saves of it has all.
    """
    name = getattr(loss, "__name__", "")
    if name and vars(keras.losses).get(name) is loss:
        parameters = inspect.signature(loss).parameters.values()
        return name.lower().replace("_", ""), True, {parameter.name: parameter.default for parameter in parameters}
    is_of_keras = isinstance(loss, keras.losses.Loss) and type(loss).__module__.split(".")[0] == "keras"
    has_attribute = isinstance(loss, keras.losses.Loss) and hasattr(loss, "from_logits")
    options = {"from_logits": loss.from_logits} if has_attribute else {}
    with contextlib.suppress(Exception):  # A class of one's own may have a `get_config` that fails, or none.
        options |= loss.get_config()
    return type(loss).__name__.lower(), is_of_keras, options


def name_of_data_loss(model: keras.Model) -> str:
    """What the compiled loss is, without penalties on the weights: "nll", "mse", or, of another kind, "data_loss"."""
    losses = [keras.losses.get(loss) if isinstance(loss, str) else loss for loss in keras.tree.flatten(model.loss)]
    names = {(getattr(loss, "__name__", "") or type(loss).__name__).lower().replace("_", "") for loss in losses}
    if all("crossentropy" in name for name in names):
        return "nll"
    return "mse" if names == {"meansquarederror"} else "data_loss"


def check_metrics(metrics: str | None) -> None:
    """Raises a ValueError unless `metrics` is one of the two kinds."""
    if metrics not in (None, "compiled"):
        raise ValueError(f'`metrics` must be None or "compiled". Received: metrics={metrics!r}')


def compiled_metrics(
    network: keras.Model, outputs: Outputs, predictions: Any, labels: Any, weights: Any = None
) -> dict[str, float]:
    """The loss and the metrics with which `network` is compiled, of mean probabilities, or values, of an ensemble.

    Where the network outputs logits, the loss and the metrics see logits of these probabilities. Regularizers are left
    out: they belong to the weights of one network.

    Returns:
        `{"loss": ..., ...}`, floats.

    Raises:
        ValueError: if `network` is not compiled.
    """
    if not network.compiled:
        raise ValueError(f'`metrics="compiled"` needs a compiled network: call {network.name}.compile(...) first.')
    predictions = outputs.of_network(predictions)
    samples = len(keras.tree.flatten(predictions)[0])
    before = [(variable, read(variable)) for variable in network.metrics_variables]
    parts, metrics = {"y": labels, "y_pred": predictions, "sample_weight": weights}, {}
    try:
        network.reset_metrics()
        blocks, loss = -(-samples // 1024), -regularization(network)
        adds_up = weights is None and all(map(_is_mean, keras.tree.flatten(network.loss)))
        for rows in np.array_split(np.arange(samples), blocks if adds_up else 1):
            arguments = {name: _tensors(part, rows) for name, part in parts.items()}
            with keras.StatelessScope([(v, v.value) for v in network.variables], collect_losses=True):
                losses = ops.convert_to_numpy(network.compute_loss(x=None, **arguments))
            loss += float(np.mean(losses)) * len(rows) / samples
        for rows in np.array_split(np.arange(samples), blocks):
            metrics = network.compute_metrics(x=None, **{name: _tensors(part, rows) for name, part in parts.items()})
        values = {name: ops.convert_to_numpy(value) for name, value in metrics.items()}
    finally:
        for variable, value in before:
            variable.assign(value)
    return {**{name: float(value) for name, value in values.items() if not np.ndim(value)}, "loss": loss}


def _is_mean(loss):
    """Whether the loss of all samples is the mean over blocks, weighted by their sizes; if that is not known, no."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if loss is None:
        return True
    _, is_of_keras, options = _options_of(loss)
    is_mean = options.get("reduction", "sum_over_batch_size") == "sum_over_batch_size"
    return is_of_keras and is_mean and options.get("ignore_class") is None


def _tensors(structure, rows):
    if structure is None:
        return None
    return keras.tree.map_structure(lambda a: ops.convert_to_tensor(np.asarray(a)[rows]), structure)
