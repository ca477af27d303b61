"""Several processes of JAX that train one network: what they must do alike, and what each does alone.

There, to give a variable a value is a step that all processes do together: if one does it more often, all stop.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np


def has_one_process() -> bool:
    """Whether this process trains alone."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_count() == 1


def is_chief() -> bool:
    """Whether this process writes files: the first one does."""
    if has_one_process():
        return True
    import jax

    return jax.process_index() == 0


@contextlib.contextmanager
def on_this_process() -> Iterator[None]:
    """Of several processes, this one makes and computes what is inside alone."""
    if has_one_process():
        yield
        return
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def as_first_says(answer: bool) -> bool:
    """The answer of the first process: a folder may have changed before another one looks. Waits for all."""
    return answer if has_one_process() else bool(_of_all([answer])[0])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If the block fails in one process, all end with an error, so that none waits for it for ever. Waits for all.

    Nothing inside may be a step that all do together, as to give a variable a value.
    """
    if has_one_process():
        yield
        return
    failed = False
    try:
        yield
    except BaseException:
        failed = True
        raise
    finally:
        elsewhere = bool(_of_all([failed]).any()) and not failed
    if elsewhere:
        raise RuntimeError("Another process of JAX has failed: its own error says why.")


def is_same_everywhere(text: str) -> bool:
    """Whether all processes give the same text. Waits for all."""
    if has_one_process():
        return True
    digests = _of_all(list(hashlib.sha256(text.encode()).digest()))
    return bool((digests == digests[0]).all())


def _of_all(values: Sequence[int]) -> np.ndarray:
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(np.asarray(values, "uint8")))


def check_whole(variables: Sequence[keras.Variable]) -> None:
    """Raises a ValueError if a part of a variable lies on the devices of other processes alone."""
    if has_one_process():
        return
    for variable in variables:
        if not variable.value.is_fully_replicated:
            raise ValueError(
                f"'{variable.path}' lies in parts on the devices of several processes, as with ModelParallel: a "
                "snapshot cannot be read there. Use DataParallel, or one process with all the devices."
            )


def check_alone(network: keras.Model) -> None:
    """Raises a ValueError if `network` lies on several processes: what it predicts would, too."""
    if not has_one_process() and not all(v.value.is_fully_addressable for v in network.variables):
        raise ValueError(
            f"'{network.name}' lies on several processes of JAX, none of which has all that it predicts. Measure and "
            "predict afterwards, in a program of one process: `Ensemble.load`, or `keras.models.load_model`."
        )
