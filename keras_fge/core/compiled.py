"""What a model is compiled with: its losses, which tell what its outputs are, and its own metrics."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fge.core.networks import read, regularization
from keras_fge.core.tasks import Outputs, are_probabilities, output_names

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
    if isinstance(losses, dict) and not isinstance(getattr(model, "output", None), dict):
        losses = [losses.get(name) for name in output_names(model)]
    losses = keras.tree.flatten(losses)
    # One loss may stand for all outputs; the outputs of a class of one's own are not known before it is called.
    tensors = keras.tree.flatten(getattr(model, "outputs", None) or [None])
    arrays = [None] if predictions is None else [np.asarray(array) for array in keras.tree.flatten(predictions)]
    given = [list(value) if isinstance(value, (list, tuple)) else [value] for value in (from_logits, task)]
    count = max(map(len, (losses, arrays, *given)))
    columns = [itertools.islice(itertools.cycle(values), count) for values in (losses, tensors, arrays, *given)]
    answers = [_answer(*row) for row in zip(*columns, strict=True)]
    return Outputs(*(values[0] if count == 1 else list(values) for values in zip(*answers)))


def _answer(loss, tensor, array, from_logits, task):
    """(from_logits, task) of one output."""
    if task == "regression":
        return None, task
    width = (tensor if array is None else array).shape[-1] if tensor is not None or array is not None else None
    said = _said_by(loss, width)
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
    if task is None and said and from_logits is not None:
        task = said[1]
    return from_logits, task


def _said_by(loss, width):
    """(from_logits, task), or None if a loss does not tell; a task of None follows from the other."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if loss is None:
        return None, None
    name = getattr(loss, "__name__", "")
    if name and getattr(keras.losses, name, None) is loss:  # A function of Keras' own; by itself it takes no logits.
        from_logits = False if _is_of_probabilities(name) else None
    else:
        name = type(loss).__name__
        is_known = type(loss).__module__.split(".")[0] == "keras" or hasattr(loss, "from_logits")
        if not (isinstance(loss, keras.losses.Loss) and is_known):
            return None
        from_logits = getattr(loss, "from_logits", False if _is_of_probabilities(name) else None)
    # Several columns of a binary loss are labels that do not exclude each other.
    return from_logits, "multilabel" if name.lower().startswith("binary") and width != 1 else None


def _is_of_probabilities(name):
    return "crossentropy" in name.lower() or "divergence" in name.lower()


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
    loss, metrics = -regularization(network), {}
    try:
        network.reset_metrics()
        for rows in np.array_split(np.arange(samples), -(-samples // 1024)):
            parts = {"y": labels, "y_pred": predictions, "sample_weight": weights}
            arguments = {name: _tensors(part, rows) for name, part in parts.items()}
            with keras.StatelessScope([(v, v.value) for v in network.variables], collect_losses=True):
                value = network.compute_loss(x=None, **arguments)
            loss += float(ops.convert_to_numpy(value)) * len(rows) / samples
            metrics = network.compute_metrics(x=None, **arguments)
        values = {name: ops.convert_to_numpy(value) for name, value in metrics.items()}
    finally:
        for variable, value in before:
            variable.assign(value)
    return {**{name: float(value) for name, value in values.items() if not np.ndim(value)}, "loss": loss}


def _tensors(structure, rows):
    if structure is None:
        return None
    return keras.tree.map_structure(lambda a: ops.convert_to_tensor(np.asarray(a)[rows]), structure)
