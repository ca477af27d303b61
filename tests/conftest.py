"""What the tests share. They run on the backend named by KERAS_BACKEND, one process each."""

import functools
import gc
import itertools
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the benchmark does: numbers depend on it.
# The test processes share the cores. Threads that wait for each other there take torch half of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time of the tests is compilation, so XLA is to optimize little.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
# On JAX, equal networks of different tests and processes are compiled once, also of the run before.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / "build/jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import keras
import numpy as np
import pytest
from keras import layers, ops

from browsing import browser  # noqa: F401 - a fixture
from keras_fge.run.state import build_optimizer

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # It takes a third of a small `fit`, and of each iterator over data.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    own_fit = keras.Model.fit

    @functools.wraps(own_fit)
    def fit(model, *args, **kwargs):
        """Keras', with an optimizer that is built: made inside the compiled step, that would be traced twice."""
        if model.compiled and model.optimizer:
            with model.distribute_strategy.scope():
                build_optimizer(model)
        return own_fit(model, *args, **kwargs)

    keras.Model.fit = fit

# Keras 3.14 divides activity regularizers by the size of the batch, and has `renorm`.
IS_BEFORE_3_14 = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 14)

# Where the tests of a file, or one test, run: elsewhere only `make test-slow` runs them. If both have a mark, that of
# the test counts. Tests that see little of the backend run where they take least: on torch, which traces and compiles
# nothing; those that see some of it, on torch and one backend that compiles; those of the commands on TensorFlow.
slow_elsewhere = SLOW_ELSEWHERE = pytest.mark.on("tensorflow")
slow_on_tensorflow = SLOW_ON_TENSORFLOW = pytest.mark.on("jax", "torch")
slow_on_jax = pytest.mark.on("tensorflow", "torch")
slow_but_on_torch = SLOW_BUT_ON_TORCH = pytest.mark.on("torch")
# These files are begun first: begun last, one process would wait for the other at the end.
LONGEST = ("test_site", "test_benchmark_report", "test_examples", "test_networks", "test_model", "test_around")


@pytest.hookimpl(tryfirst=True)  # Before `-m 'not slow'` is looked at.
def pytest_collection_modifyitems(config, items):
    """Tests that see nothing of the backend run on TensorFlow alone; those of other backends are slow."""
    backend, once = keras.backend.backend(), []
    for item in items:
        mark = item.get_closest_marker("on")
        if item.get_closest_marker("once"):
            if mark and "tensorflow" not in mark.args:
                raise pytest.UsageError(f"No backend runs {item.nodeid}: it is `once`, and on {mark.args}.")
            once.append(item)
        if mark and backend not in mark.args:
            item.add_marker(pytest.mark.slow)
    if backend != "tensorflow":
        items[:] = [item for item in items if item not in once]
        config.hook.pytest_deselected(items=once)
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture
def graph_optimizer():
    """TensorFlow's, which convolutions need there on a CPU if channels come first."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


modules = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def garbage():
    """What a module leaves behind, as TensorFlow does with traced graphs, is looked through only now and then."""
    yield
    if next(modules) % 8 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def to_numpy(tensor):
    return ops.convert_to_numpy(tensor.value if isinstance(tensor, keras.Variable) else tensor)


def values(variables):
    return [to_numpy(variable) for variable in variables]


def logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch_norm_network():
    """A small network with nested BatchNormalization, a regularizer and dropout; outputs logits of 3 classes."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(1e-2))(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = keras.Sequential([layers.Conv2D(5, 3), layers.BatchNormalization(momentum=0.8)], name="block")(x)
    x = layers.Dropout(0.3, seed=1)(x)  # Without a seed, Keras uses a global generator on torch.
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def images(samples=50):
    rng = np.random.default_rng(1)
    return rng.normal(1.0, 2.0, (samples, 6, 6, 2)).astype("float32"), rng.integers(0, 3, samples)


@functools.cache
def _trained():
    x, y = images()
    networks = []
    for _ in range(2):
        network = batch_norm_network()
        network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
        network.fit(x, y, batch_size=16, epochs=2, verbose=0)
        networks.append(network)
    return *networks, x, y


@pytest.fixture
def trained():
    """Two trained networks of one architecture and their data: (start, end, x, y). Shared: no test may change them."""
    start, end, x, y = _trained()
    before = values(start.variables + end.variables)
    yield start, end, x, y
    assert all(np.array_equal(a, b) for a, b in zip(values(start.variables + end.variables), before))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The folder of a run of all experiments, and what it printed. The test processes share one run."""
    # Not above: processes that tests start import this file, too, without benchmarks/.
    from study.records import locked

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, output = root / "smoke", root / "smoke.txt"
    with locked(root / "smoke.lock"):
        if not output.exists():
            command = [sys.executable, "benchmarks/cifar.py", "--preset=smoke", f"--output_dir={folder}"]
            result = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent)
            assert result.returncode == 0, result.stderr
            output.write_text(result.stdout)
    return folder, output.read_text()
