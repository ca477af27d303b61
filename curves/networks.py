"""What curves need to know of any Keras network: copies of it, of its values, and whether two are alike."""

import contextlib
import itertools
import re

import keras
from keras import ops

# Options of Keras layers in which two networks of one architecture may differ.
ONLY_IN_TRAINING = re.compile(
    "^(trainable|dtype|seed|rate|dropout|stddev|momentum)$|_(initializer|regularizer|dropout)$"
)


def clone(layer):
    """A layer or network of the same architecture, not compiled, with weights of its own.

    Raises:
        ValueError: if Keras cannot make one, as for a class without a working `get_config`.
    """
    compiled = getattr(layer, "compiled", False)
    try:
        if not isinstance(layer, keras.Model):
            return type(layer).from_config(layer.get_config())
        layer.compiled = False  # Or Keras would clone optimizer and loss too, and fail where these are the user's own.
        copy = keras.models.clone_model(layer)
    except Exception as error:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) could not be rebuilt from its configuration. A class of your own "
            f"needs a `get_config` that returns its constructor arguments. Keras says: {error}"
        ) from error
    finally:
        if compiled:
            layer.compiled = True
    ours, theirs = ([len(part.layers) for part in _sequential_parts(network)] for network in (layer, copy))
    if ours != theirs:
        raise ValueError(
            f"A part of '{layer.name}' is a Sequential model in which one layer stands twice. Keras copies (and saves) "
            "it only once: share the layer in a functional model instead."
        )
    return copy


def _sequential_parts(network):
    return [part for part in network._flatten_layers() if isinstance(part, keras.Sequential)]


def check_same_architecture(start, end, start_name="`start`", end_name="`end`"):
    """Raises a ValueError that names the first weight in which two networks differ, or the lack of weights.

    Weights are compared by order, shape and dtype, never by name: Keras numbers names as it goes.
    """
    for network, name in ((start, start_name), (end, end_name)):
        if not network.built or not network.weights:
            raise ValueError(f"{name} must be a built network with weights. Received: {network.name}, not built.")
    kinds = [
        (lambda network: network.trainable_variables, "trainable weight"),
        (lambda network: network.non_trainable_weights, "non-trainable weight"),
    ]
    for variables, kind in kinds:
        ours, theirs = variables(start), variables(end)
        for index, (a, b) in enumerate(zip(ours, theirs)):
            if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
                raise ValueError(
                    f"{start_name} and {end_name} must have the same architecture, but differ in {kind} {index}: "
                    f"'{a.path}' {tuple(a.shape)} {a.dtype} against '{b.path}' {tuple(b.shape)} {b.dtype}."
                )
        if len(ours) != len(theirs):
            longer, name = (ours, start_name) if len(ours) > len(theirs) else (theirs, end_name)
            raise ValueError(
                f"{start_name} and {end_name} must have the same architecture, but have {len(ours)} and {len(theirs)} "
                f"{kind}s. The first without a partner is '{longer[min(len(ours), len(theirs))].path}' of {name}."
            )
    _check_same_arithmetic(start, end, start_name, end_name)


def _check_same_arithmetic(start, end, start_name, end_name):
    """Raises a ValueError if equal weights would compute something else, as with another activation or stride."""
    for a, b in itertools.zip_longest(arithmetic(start), arithmetic(end), fillvalue={}):
        for key in a | b:
            if key != "name" and a.get(key) != b.get(key):
                raise ValueError(
                    f"{start_name} and {end_name} must have the same architecture, but differ in `{key}`: "
                    f"{a.get(key)} in layer '{a.get('name')}' against {b.get(key)} in layer '{b.get('name')}'."
                )


def arithmetic(network):
    """For each layer that has none inside, its class and configuration, less what matters only in training."""
    descriptions = []
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.InputLayer) or list(layer._flatten_layers(include_self=False)):
            continue
        try:
            config = layer.get_config()
        except NotImplementedError:  # A class of the user's own, of which only the name can be compared.
            config = {"name": layer.name}
        kept = {key: value for key, value in config.items() if not ONLY_IN_TRAINING.search(key)}
        kept = keras.saving.serialize_keras_object(kept)  # Arrays become lists, which can be compared.
        descriptions.append({"class": type(layer).__name__, **kept})
    return descriptions


def refresh(network):
    """To be called after new values came into the weights of `network`: a few layers keep constants made of them."""
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def regularization(network):
    """The sum of the weight regularizers of `network`, a float; layers inside a `Curve` are not part of it."""
    with keras.StatelessScope([(v, v.value) for v in network.variables], collect_losses=True):
        terms = network.losses  # No call has been made in this scope: there are no activity regularizers among them.
    return float(sum(ops.convert_to_numpy(term) for term in terms))


@contextlib.contextmanager
def restored(network, only_on_error=False):
    """Puts the values of all variables of `network` back after the block, or only if it fails or is interrupted.

    On JAX, `predict` and `evaluate` take the values out of the model and, if they break off, do not bring them back.
    """
    values = [(variable, read(variable)) for variable in network.variables]
    try:
        yield
    except BaseException:
        only_on_error = False
        raise
    finally:
        for variable, value in values if not only_on_error else ():
            variable.assign(value)


def read(variable):
    """The value of a Keras variable as a numpy array of its own.

    Also the way to copy a variable into another: on JAX, `a.assign(b)` shares the buffer, and the next `fit` donates it
    twice.
    """
    return ops.convert_to_numpy(variable.value)
