"""Properties, on random cases: which networks are the same, what a resume takes, and data in any container."""

import collections
import tempfile
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, values
from keras_fge.run.state import training_state

pytestmark = SLOW_BUT_ON_TORCH

PROFILE = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
seen: collections.Counter = collections.Counter()

# --- Networks ---------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "relu": ops.relu,
    "tanh": ops.tanh,
    "leaky 0.1": lambda x: ops.leaky_relu(x, 0.1),
    "leaky 0.3": lambda x: ops.leaky_relu(x, 0.3),
    "halved": lambda x: x * 0.5,
    "reversed": lambda x: ops.flip(x, axis=-1),
    "layer tanh": lambda x: layers.Activation("tanh")(x),
    "layer elu": lambda x: layers.ELU(0.5)(x),
}
TWO = {"add": ops.add, "subtract": ops.subtract, "layer add": lambda a, b: layers.Add()([a, b])}
DENSE = {"dense": None, "dense relu": "relu", "dense tanh": "tanh"}
STEP = st.tuples(st.sampled_from([*OPERATIONS, *TWO, *DENSE]), st.integers(0, 9), st.integers(0, 9))


def network(steps):
    """Each step is (operation, the tensors that it takes, counted from the newest)."""
    tensors = [keras.Input((4,))]
    for name, first, second in steps:
        a, b = (tensors[-1 - which % len(tensors)] for which in (first, second))
        if name in DENSE:
            tensors.append(layers.Dense(4, DENSE[name])(a))
        else:
            tensors.append(OPERATIONS[name](a) if name in OPERATIONS else TWO[name](a, b))
    return keras.Model(tensors[0], layers.Dense(2)(tensors[-1]))


@settings(max_examples=150, **PROFILE)
@given(data=st.data())
def check_networks(data):
    """What is taken for the same computes the same from the same weights; what was made alike is the same."""
    steps = data.draw(st.lists(STEP, min_size=1, max_size=5), label="steps")
    others = list(steps)
    if data.draw(st.booleans(), label="differs"):
        others[data.draw(st.integers(0, len(steps) - 1), label="place")] = data.draw(STEP, label="step")
    first, second = network(steps), network(others)
    if [w.shape for w in first.weights] != [w.shape for w in second.weights]:
        return
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=w.shape) for w in first.weights]
    first.set_weights(weights)
    second.set_weights(weights)
    computes_the_same = np.allclose(*(ops.convert_to_numpy(net(X)) for net in (first, second)), atol=1e-5)
    try:
        keras_fge.Ensemble.of([first, second], from_logits=True)
        is_same = True
    except ValueError:
        is_same = False
    assert not is_same or computes_the_same
    assert is_same or steps != others
    seen["the same" if is_same else "another"] += 1


def test_random_networks_are_the_same_or_not():
    seen.clear()
    check_networks()
    assert seen["the same"] > 20 and seen["another"] > 20


# --- Resumes ----------------------------------------------------------------------------------------------------------


def fit(kind, folder, frozen, epochs):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(4, "relu"), layers.BatchNormalization(), layers.Dense(4, "tanh"), layers.Dense(2, "softmax")]
    for layer, is_frozen in zip(parts, frozen):
        layer.trainable = not is_frozen
    model = keras.Sequential([keras.Input((4,)), *parts])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    make = {"fge": lambda: keras_fge.FGE(0.1, 0.01, cycle_epochs=2, directory=folder, resume=True)}
    callback = make.get(kind, lambda: keras_fge.Checkpoint(folder))()
    batches = callback.batches(X, np.arange(20) % 2, 10)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[callback])
    return values(training_state(model))


FLAGS = st.lists(st.booleans(), min_size=4, max_size=4).filter(lambda flags: not all(flags))


RESUMES = {"kind": st.sampled_from(["fge", "checkpoint"]), "before": FLAGS, "after": FLAGS, "same": st.booleans()}


def check_resume(kind, before, after, same):
    after = before if same else after
    with tempfile.TemporaryDirectory() as parts, tempfile.TemporaryDirectory() as whole, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(kind, f"{parts}/run", before, 2)
        try:
            resumed = fit(kind, f"{parts}/run", after, 4)
        except ValueError as error:
            assert before != after and "frozen_weights" in str(error)
            seen["refused"] += 1
            return
        assert before == after
        assert all(np.array_equal(*pair) for pair in zip(resumed, fit(kind, f"{whole}/run", after, 4), strict=True))
        seen["exact"] += 1


@pytest.mark.parametrize("count", [5, pytest.param(12, marks=pytest.mark.slow)])
def test_any_layers_may_be_frozen_at_a_resume(count):
    seen.clear()
    settings(max_examples=count, **PROFILE)(given(**RESUMES)(check_resume))()
    assert seen["refused"] > 1 and seen["exact"] > 1


# --- Data -------------------------------------------------------------------------------------------------------------


def frame(array, rng):
    index = rng.permutation(len(array)) * 3 - 7
    return (pd.Series if array.ndim == 1 else pd.DataFrame)(array, index=index)


CONTAINERS = {
    "numpy": lambda array, rng: array,
    "reversed twice": lambda array, rng: array[::-1].copy()[::-1],
    "Fortran": lambda array, rng: np.asfortranarray(array),
    "read-only": lambda array, rng: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "pandas": frame,
    "tensor": lambda array, rng: ops.convert_to_tensor(array),
}


DATA = {
    "kinds": st.tuples(*[st.sampled_from([*CONTAINERS])] * 3),
    "size": st.integers(2, 30),
    "batch_size": st.integers(1, 12),
    "kind": st.sampled_from(["float32", "float16", "int32", "uint8"]),
    "seed": st.integers(0, 99),
}


def check_containers(kinds, size, batch_size, kind, seed):
    rng = np.random.default_rng(seed)
    arrays = rng.integers(0, 9, (size, 4)).astype(kind), rng.integers(0, 2, size), rng.uniform(0.5, 2, size)
    arrays = (*arrays[:2], arrays[2].astype("float32"))
    x, y, weights = (CONTAINERS[name](array, rng) for name, array in zip(kinds, arrays))
    theirs, ours = (keras_fge.Batches(a, b, batch_size, seed, sample_weight=c) for a, b, c in (arrays, (x, y, weights)))
    assert len(theirs) == len(ours)
    for index in range(len(ours)):
        assert all(np.array_equal(a, b) for a, b in zip(theirs[index], ours[index], strict=True))
    expected = ENSEMBLE.evaluate(arrays[0], arrays[1], batch_size=64, sample_weight=arrays[2])
    assert ENSEMBLE.evaluate(x, y, batch_size=64, sample_weight=weights) == expected
    statistics = []
    for data in (arrays[:2], (x, y)):
        curves.update_batch_norm(NORMALIZED, data, batch_size=64)
        statistics.append(values(NORMALIZED.weights))
    assert all(np.array_equal(*pair) for pair in zip(*statistics))
    for index, moment in enumerate((np.mean, np.var)):
        expected = moment(arrays[0].astype("float64"), axis=0)
        assert np.allclose(statistics[1][2 + index], expected, rtol=1e-4, atol=1e-4)
    seen["right"] += 1


NORMALIZED = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
CLASSIFIER = keras.Sequential([keras.Input((4,)), layers.Dense(2, "softmax")])
ENSEMBLE = keras_fge.Ensemble(CLASSIFIER, [[np.eye(4, 2), np.zeros(2)], [np.eye(4, 2) / 2, np.ones(2)]], False)


@pytest.mark.parametrize("count", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_data_in_any_container_give_the_same(count):
    seen.clear()
    settings(max_examples=count, **PROFILE)(given(**DATA)(check_containers))()
    assert seen["right"] >= count
