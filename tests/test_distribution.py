"""Training on more than one device: the same members as on one. Devices are virtual, made of CPU cores."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
BACKEND = keras.backend.backend()

COMMON = """
import json, os, sys
import keras, numpy as np
sys.path.insert(0, "tests")
import keras_fge
from conftest import batch_norm_network, images, logits_loss

def make(folder):
    keras.utils.set_random_seed(0)
    x, y = images(48)
    network = batch_norm_network()
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), jit_compile=False)
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=(x, y), directory=folder)
    return network, fge, x, y
"""


def start(program, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", COMMON + program, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


def weights_of_members(folder):
    import keras_fge

    return [snapshot.weights for snapshot in keras_fge.Ensemble.load(folder).snapshots]


def assert_same_members(folder, other, tolerance, count=2):
    ours, theirs = weights_of_members(folder), weights_of_members(other)
    assert len(ours) == len(theirs) == count
    for a, b in zip(ours, theirs):
        for v, w in zip(a, b):
            assert v == pytest.approx(w, abs=tolerance)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution works on JAX")
def test_data_parallel(tmp_path):
    program = """
keras.distribution.set_distribution(keras.distribution.DataParallel() if sys.argv[2] == "2" else None)
network, fge, x, y = make(sys.argv[1])
network.fit(x, y, batch_size=16, shuffle=False, epochs=3, verbose=0, callbacks=[fge])
nll = fge.snapshots[-1].metrics["ensemble_nll"], fge.ensemble().evaluate(x, y)["nll"]
import curves
curve = curves.connect(network, network, seed=0)
curve.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"], jit_compile=False)
path = curves.evaluate_path(curve, (x, y), (x, y), num_points=3, batch_size=16, verbose=False)
print(len(keras.distribution.list_devices()), *nll, *path.test["nll"])
"""
    outputs = []
    for devices in ("1", "2"):
        # Two devices on a busy CPU may wait for each other for long.
        flags = f"--xla_force_host_platform_device_count={devices}"
        flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
        outputs.append(finish(start(program, tmp_path / devices, devices, XLA_FLAGS=flags)).split())
    assert [output[0] for output in outputs] == ["1", "2"]
    assert_same_members(tmp_path / "1", tmp_path / "2", 1e-6)
    one, two = [list(map(float, output[1:])) for output in outputs]
    assert one == pytest.approx(two, rel=1e-4) and one[0] == pytest.approx(one[1], rel=1e-4)


ALL_ELSE = """
import contextlib, json
import curves

folder, devices = sys.argv[1], int(sys.argv[2])
scope = contextlib.nullcontext
if keras.backend.backend() == "jax":
    keras.distribution.set_distribution(keras.distribution.DataParallel() if devices > 1 else None)
elif devices > 1:
    import tensorflow as tf
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * devices)
    scope = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)]).scope
x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 4
arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}

def new(seed=0):
    keras.utils.set_random_seed(seed)
    with scope():
        network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(4)])
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
        network.compile(optimizer, logits_loss(), metrics=["accuracy"], jit_compile=False)
    return network

def trained(callback, epochs=3):
    network = new()
    network.fit(x, y, epochs=epochs, callbacks=[callback], **arguments)
    return network

def resumed(stop):
    checkpoint = keras_fge.Checkpoint(folder, every=0)
    network = new()
    callbacks = [checkpoint, *([keras.callbacks.LambdaCallback(on_train_batch_end=stop)] if stop else [])]
    network.fit(checkpoint.batches(x, y, 16), epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return network

def stop(batch, logs):
    if batch == 1:
        raise KeyboardInterrupt

def curve(objective):
    with scope():
        model = curves.connect(new(0), new(1), seed=0, objective=objective)
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"], jit_compile=False)
    model.fit(x, y, epochs=2, **arguments)
    return model

average, snapshots = keras_fge.EMA((1.0,)), keras_fge.SnapshotEnsemble(0.05, cycle_steps=4)
paper = trained(keras_fge.PaperTraining(0.05, 3)), trained(average), trained(snapshots)
with contextlib.suppress(KeyboardInterrupt):
    resumed(stop)
networks = [*paper[:1], average.network(1.0), resumed(None), curve("uniform"), curve("arc_length")]
ensemble = snapshots.ensemble()
around = [
    curves.evaluate_plane(new(), (x, y), (x, y), directions=how, num_points=2, batch_size=16, verbose=False)
    for how in ("filter", "hessian")
]
path = curves.evaluate_path(networks[3], (x, y), (x, y), 3, batch_size=16, verbose=False)
samples = curves.sample_subspace(networks[3], (x, y), 2, 10.0, batch_size=16, seed=0, verbose=False)
ensembles = [ensemble, ensemble.calibrated(x, y), keras_fge.SWAG(ensemble, rank=2).sample(2, seed=0), samples]
ensembles.append(keras_fge.Ensemble.of([new(2), new(3)], from_logits=True))  # In one program.
weights = [array for network in networks for array in network.get_weights()]
rng = np.random.default_rng(1)  # A sum alone would not see a sign, nor a place.
values = [value for w in weights for value in (np.abs(w).sum(), np.vdot(w, rng.normal(size=w.shape)))]
values += [of.evaluate(x, y)["nll"] for of in ensembles] + [*path.train["loss"], *path.line.test["nll"]]
values += [value for plane in around for value in plane.train["loss"].ravel()]
print(json.dumps([float(value) for value in values]))
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no distribution there")
def test_all_else_on_several_devices(tmp_path):
    """Eight devices on JAX, two on TensorFlow: the numbers of one. (BatchNormalization differs on TensorFlow.)"""
    outputs = []
    for devices in ("1", "8" if BACKEND == "jax" else "2"):
        flags = f"--xla_force_host_platform_device_count={devices}"
        flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
        process = start(ALL_ELSE, tmp_path / devices, devices, XLA_FLAGS=flags, TF_CPP_MIN_LOG_LEVEL="3")
        outputs.append(json.loads(finish(process).splitlines()[-1]))
    one, several = outputs
    assert len(one) > 40 and several == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution works on JAX")
def test_model_parallel(tmp_path):
    """Kernels, and so bends, lie in parts on four devices: the same numbers as on one, also after a resume."""
    program = """
import curves, json
folder, is_parallel = sys.argv[1], sys.argv[2] == "4"
if is_parallel:
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), keras.distribution.list_devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel.*"] = (None, "model")
    distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)

def dense(seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(4)]
    network = keras.Sequential([keras.Input((6,)), *layers])
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"], jit_compile=False)
    return network

def is_split(variable):
    return "model" in str(variable.value.sharding.spec) if is_parallel else True

x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 4
arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
for epochs in (2, 3):
    start = dense(0)
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=(x, y), directory=folder + "/run", resume=True)
    start.fit(x, y, epochs=epochs, callbacks=[fge], **arguments)
end = dense(1)
end.fit(x, y, epochs=2, **arguments)
curve = curves.connect(start, end, seed=0)
curve.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"], jit_compile=False)
curve.fit(x, y, epochs=2, **arguments)
split = [is_split(start.layers[0].kernel), *(is_split(v) for v in curve.trainable_variables if "kernel" in v.path)]
path = curves.evaluate_path(curve, (x, y), (x, y), num_points=5, batch_size=16, verbose=False)
plane = curves.evaluate_plane(curve, (x, y), (x, y), num_points=2, batch_size=16, verbose=False)
ensemble = fge.ensemble()
ensemble.save(folder + "/ensemble")
values = [ensemble.evaluate(x, y)["nll"], keras_fge.Ensemble.load(folder + "/ensemble").evaluate(x, y)["nll"]]
values += [np.abs(ensemble.average_weights((x, y)).predict(x, verbose=0)).sum()]
values += [*path.train["loss"], *plane.test["loss"].ravel()]
print(json.dumps([all(split), len(split), len(ensemble), list(map(float, values))]))
"""
    outputs = []
    for devices in ("1", "4"):
        flags = f"--xla_force_host_platform_device_count={devices}"
        flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
        output = finish(start(program, tmp_path / devices, devices, XLA_FLAGS=flags))
        outputs.append(json.loads(output.splitlines()[-1]))
    (*_, expected), (is_split, kernels, members, values) = outputs
    assert is_split and kernels == 3 and members == 3
    assert values == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution works on JAX")
def test_two_processes(tmp_path):
    """Each trains on its part and measures all validation data; the numbers are those of one process."""
    program = """
import curves, pytest
process, port = int(sys.argv[2]), sys.argv[3]
if process >= 0:
    keras.distribution.initialize(f"127.0.0.1:{port},127.0.0.1:{port}", 2, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
network, fge, x, y = make(sys.argv[1])
data = x, y
if process >= 0:  # Each process brings its half of every batch.
    rows = np.arange(48).reshape(3, 2, 8)[:, process].ravel()
    x, y = x[rows], y[rows]
    other = keras_fge.FGE(0.05, 0.001, cycle_steps=2, validation_data=(x, y))
    try:
        network.fit(x, y, batch_size=8, verbose=0, callbacks=[other])
    except ValueError as error:
        assert "`validation_data` must be the same in all processes of JAX" in str(error)
    else:
        raise AssertionError("it was not refused")
arguments = {"batch_size": 16 if process < 0 else 8, "shuffle": False, "verbose": 0}
logged = network.fit(x, y, epochs=3, callbacks=[fge], **arguments).history
kinds = [len(fge.snapshots), type(fge.snapshots[0]).__name__]
again = make(sys.argv[1])[0]
resumed = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=data, directory=sys.argv[1], resume=True)
again.fit(x, y, epochs=4, callbacks=[resumed], **arguments)
own = {name: values for name, values in logged.items() if name.startswith(("member", "ensemble"))}
compared = {name: dict(row) for name, row in resumed.comparison.items()}
network.compile(network.optimizer, network.loss, metrics=["accuracy"], jit_compile=False)
plain = keras_fge.FGE(0.05, 0.001, cycle_steps=2, validation_data=data, metrics="compiled")
network.fit(x, y, epochs=1, callbacks=[plain], **arguments)
values = [own, [s.metrics for s in resumed.snapshots], compared, plain.snapshots[-1].metrics]

others = [keras_fge.Checkpoint(sys.argv[1] + "/training"), keras_fge.EMA([2], directory=sys.argv[1] + "/averages")]
others.append(keras_fge.SnapshotEnsemble(0.05, cycle_steps=3, validation_data=data, directory=sys.argv[1] + "/cosine"))
for callback in others:
    again.fit(x, y, epochs=2, callbacks=[callback], **arguments)
curve = curves.connect(network, again, seed=0)
curve.compile(keras.optimizers.SGD(0.02), logits_loss(), jit_compile=False)
curve.fit(x, y, epochs=2, **arguments)
middle = curve.network_at(0.5)
curves.update_batch_norm(middle, (x, y), arguments["batch_size"])
networks = [network, again, others[1].network(2, (x, y)), middle]
values += [[float(np.abs(w).sum()) for w in each.get_weights()] for each in networks]
fge.ensemble().save(sys.argv[1] + "/saved")
if process >= 0:
    assert os.path.exists(sys.argv[1] + "/saved/manifest.json")
    broken = keras_fge.Checkpoint(sys.argv[1] + "/broken")
    if process == 0:  # As if the disk were full: the other one is not to wait for ever.
        broken._state.write = lambda *given: open(sys.argv[1] + "/none/state")
    with pytest.raises(RuntimeError if process else OSError, match="has failed" if process else "No such file"):
        again.fit(x, y, callbacks=[broken], **arguments)
    for measure in (lambda: fge.ensemble().predict(data[0]), lambda: curves.evaluate_path(curve, data, data, 3)):
        with pytest.raises(ValueError, match="lies on several processes of JAX, none of which has all"):
            measure()
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), keras.distribution.list_devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel.*"] = (None, "model")
    options = {"batch_dim_name": "batch", "auto_shard_dataset": False}
    keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout, **options))
    parts = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    parts.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(ValueError, match="kernel' lies in parts on the devices of several processes"):
        parts.fit(np.zeros((8, 2)), np.zeros((8, 4)), verbose=0, callbacks=[keras_fge.FGE(0.05, 0.001, cycle_steps=2)])
print(json.dumps([*kinds, values]))
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(program, tmp_path / "two", process, port) for process in (0, 1)]
    found = [json.loads(finish(process).splitlines()[-1]) for process in processes]
    assert [each[:2] for each in found] == [[2, "StoredSnapshot"], [2, "Snapshot"]]  # Only the first one writes.
    found.append(json.loads(finish(start(program, tmp_path / "one", -1, port)).splitlines()[-1]))
    assert_same_members(tmp_path / "two", tmp_path / "one", 1e-5, 3)
    first, second, alone = ([np.asarray(each) for each in numbers_of(each[2:])] for each in found)
    assert len(first) > 40
    np.testing.assert_allclose(second, first, rtol=1e-6)
    np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-6)


def numbers_of(value):
    """All numbers in dictionaries and lists, in the order of the names."""
    if isinstance(value, dict):
        return [number for name in sorted(value) for number in numbers_of(value[name])]
    return [number for part in value for number in numbers_of(part)] if isinstance(value, list) else [value]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute belongs to TensorFlow")
def test_mirrored_strategy(tmp_path):
    program = """
import tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    network, fge, x, y = make(sys.argv[1])
network.fit(x, y, batch_size=16, shuffle=False, epochs=3, verbose=0, callbacks=[fge])
print(strategy.num_replicas_in_sync, len(fge.snapshots), fge.ensemble().evaluate(x, y)["nll"])

from test_schedule import fge_by_hand, fit, unit_gradient_model
with strategy.scope():
    model = unit_gradient_model()
fge = keras_fge.FGE(1.0, 0.1, cycle_steps=4)
fit(model, epochs=2, callbacks=[fge])  # A step moves the weight by minus the learning rate.
after = -np.cumsum([fge_by_hand(step, 1.0, 0.1, 4) for step in range(1, 13)])
assert np.allclose([s.weights[0] for s in fge.snapshots], after[[1, 5, 9]], atol=1e-5), fge.snapshots

with strategy.scope():
    model = unit_gradient_model()
    model.optimizer = keras.optimizers.SGD(0.25, momentum=0.9)
fge = keras_fge.FGE(1.0, 0.1, cycle_steps=4)
fit(model, epochs=2, callbacks=[fge])  # The paper's step: v = m v + 1; w -= rate v.
velocities = np.cumsum(0.9 ** np.arange(12))
after = -np.cumsum([fge_by_hand(step, 1.0, 0.1, 4) * v for step, v in enumerate(velocities, 1)])
assert np.allclose([s.weights[0] for s in fge.snapshots], after[[1, 5, 9]], rtol=1e-5), (fge.snapshots, after)
"""
    output = finish(start(program, tmp_path / "run", TF_CPP_MIN_LOG_LEVEL="3"))
    replicas, members, nll = output.split()
    assert (replicas, members) == ("2", "2") and np.isfinite(float(nll))
