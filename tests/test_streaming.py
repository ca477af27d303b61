"""Data larger than memory: objects that hand out rows are what arrays are, and memory stays flat."""

import concurrent.futures
import copy
import pickle
import threading
import time

import h5py
import keras
import numpy as np
import pytest

import curves
import keras_fge
import processes
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, logits_loss, values
from keras_fge.core import data as core_data
from keras_fge.run.state import StateFile

pytestmark = SLOW_BUT_ON_TORCH
X, Y = images(70)


class Rows:
    """Hands out the rows of an array, as one does that reads files, and notes which thread took which."""

    def __init__(self, array):
        self._array, self.reads, self._is_asked = array, [], False
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert len(rows) and np.all(np.diff(rows) > 0)
        assert not self._is_asked, "two threads at once"
        self._is_asked = True
        time.sleep(0.001)
        self._is_asked = False
        self.reads.append((threading.current_thread().name.startswith("keras_fge_reader"), list(rows)))
        return self._array[rows]


def network(seed=0):
    keras.utils.set_random_seed(seed)
    model = batch_norm_network()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    return model


def fge(folder=None, **arguments):
    return keras_fge.FGE(0.02, 0.002, cycle_steps=4, directory=folder, resume=folder is not None, **arguments)


def fit(ours, x, *callbacks, **arguments):
    model = network()
    keywords = {"epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    model.fit(ours.batches(x, Y, 10, seed=3), callbacks=[ours, *callbacks], **keywords)
    return model


class Stop(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:.*goes on in epoch")
def test_training_is_that_on_arrays_also_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)
    plain = fge(validation_data=(X, Y))
    expected = fit(plain, X)
    ours = fge(tmp_path, every=0, validation_data=keras_fge.Batches(Rows(X), Y, 16))
    with pytest.raises(KeyboardInterrupt):
        fit(ours, Rows(X), Stop())
    ours = fge(tmp_path, every=0, validation_data=keras_fge.Batches(Rows(X), Y, 16))
    model = fit(ours, Rows(X))
    for a, b in zip(values(model.variables), values(expected.variables), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(ours.snapshots, plain.snapshots, strict=True):
        assert all(map(np.array_equal, a.weights, b.weights))
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4)
    assert set(ours.comparison) == set(plain.comparison) == {"last network", "ensemble", "averaged weights"}
    for name, row in plain.comparison.items():
        assert ours.comparison[name] == pytest.approx(row, rel=1e-4)


def test_all_that_reads_data_reads_them():
    ensemble = keras_fge.Ensemble.of([network(0), network(1)], from_logits=True)
    arrays, rows = keras_fge.Batches(X, Y, 16), keras_fge.Batches(Rows(X), Y, 16)
    assert ensemble.predict(rows) == pytest.approx(ensemble.predict(X), abs=1e-6)
    assert ensemble.predict(rows, members=True)[1] == pytest.approx(ensemble.predict(X, members=True)[1], abs=1e-6)
    assert ensemble.evaluate(rows) == pytest.approx(ensemble.evaluate(X, Y))
    assert ensemble.conformal(rows).threshold == pytest.approx(ensemble.conformal(X, Y).threshold)
    averages = [ensemble.average_weights(data) for data in (arrays, rows)]
    for a, b in zip(*(values(average.variables) for average in averages), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    curve = curves.connect(network(0), network(1))
    curve.compile("sgd", logits_loss())
    paths = [curves.evaluate_path(curve, data, (X, Y), 3, verbose=False) for data in (arrays, rows)]
    assert paths[0].train["nll"] == pytest.approx(paths[1].train["nll"], rel=1e-5)


def test_the_next_batch_is_read_while_the_present_one_is_used():
    x = Rows(X)
    batches = keras_fge.Batches(x, Y, 10)
    for index in range(7):
        taken, labels = batches[index]
        rows = np.random.default_rng((0, 0)).permutation(70)[10 * index : 10 * index + 10]
        assert np.array_equal(taken, X[rows]) and np.array_equal(labels, Y[rows])
        time.sleep(0.05)  # From the second on, the next one is read meanwhile.
        assert len(x.reads) == min(index + 1 + (index > 0), 7)
    assert all(by_thread for by_thread, _ in x.reads) and len(x.reads) == 7
    in_order = batches.in_order()
    assert np.array_equal(np.concatenate([in_order[index][0] for index in range(len(in_order))]), X)


def test_a_used_callback_can_be_pickled_and_batches_copied():
    validation = keras_fge.Batches(Rows(X), Y, 16)
    ours = fge(validation_data=validation)
    fit(ours, Rows(X))
    again = pickle.loads(pickle.dumps(ours))
    assert len(again.snapshots) == len(ours.snapshots) > 0
    copied = copy.deepcopy(validation)
    assert all(np.array_equal(copied[index][0], validation[index][0]) for index in (1, 2, 0))


def test_threads_get_the_rows_that_they_ask_for():
    x = Rows(X)
    batches = keras_fge.Batches(x, Y, 10)
    rows = np.random.default_rng((0, 0)).permutation(70)

    def all_of_them(_):
        return all(np.array_equal(batches[i][0], X[rows[10 * i : 10 * i + 10]]) for i in range(7))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert all(pool.map(all_of_them, range(9)))


def test_in_another_order_nothing_is_read_twice():
    x = Rows(X)
    batches = keras_fge.Batches(x, Y, 10)
    for index in (3, 0, 6, 1, 5, 2, 4):
        batches[index]
    assert len(x.reads) == 7 and sorted(row for _, rows in x.reads for row in rows) == list(range(70))


def test_an_error_of_the_source_ends_the_fit():
    class Broken(Rows):
        def __getitem__(self, rows):
            if 33 in rows:
                raise OSError("row 33 cannot be read")
            return super().__getitem__(rows)

    with pytest.raises(OSError, match="row 33 cannot be read"):
        fit(fge(), Broken(X))


def test_what_tells_large_data_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(core_data, "LARGE", 1000)
    monkeypatch.setattr(core_data, "ROWS", 15)
    other = X.copy()
    other[-1] += 1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=X)
        told = {name: keras_fge.Batches(x, Y).about()["data"] for name, x in {"h5": stored, "rows": Rows(X)}.items()}
        assert isinstance(keras_fge.Batches(stored, Y).in_order(), core_data.ArrayBatches)  # Keras would read it whole.
        assert told["h5"] == told["rows"] == keras_fge.Batches(Rows(X), Y).about()["data"]
    different = [Rows(other), Rows(X[1:]), Rows(X.astype("float64"))]
    in_order = [keras_fge.Batches(Rows(array), Y).in_order() for array in (X, X, other)]
    ours, same, differs = map(core_data.checksum_of_data, in_order)
    assert ours == same != differs  # So a resume knows its validation data.
    assert told["rows"] not in [keras_fge.Batches(x, Y[-len(x) :]).about()["data"] for x in different]


MEMORY = """
import resource, sys
import keras, numpy as np
import curves, keras_fge

class Pictures:
    ndim, dtype = 4, np.dtype("float32")
    def __init__(self, count):
        self.shape = (count, 32, 32, 3)
    def __len__(self):
        return self.shape[0]
    def __getitem__(self, rows):
        return np.sin(np.asarray(rows, "float32"))[:, None, None, None] * np.ones(self.shape[1:], "float32")

def network():
    layers = [keras.layers.AveragePooling2D(16), keras.layers.Flatten(), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

count = int(sys.argv[2])
x, y = Pictures(count), np.arange(count) % 3
model, other = network(), network()
fge = keras_fge.FGE(0.1, 0.01, cycle_steps=4, directory=sys.argv[1])
data = fge.batches(x, y, 128)
model.fit(data, shuffle=False, verbose=0, callbacks=[fge])
fge.ensemble().evaluate(data)
curves.update_batch_norm(model, data)
curve = curves.connect(model, other)
curve.compile("sgd", model.loss)
curves.evaluate_path(curve, data, data, 2, verbose=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    """The larger data are 123 MB, ten times the others."""
    peaks = []
    for count in (1_000, 10_000):
        ended = processes.run(MEMORY, str(tmp_path / str(count)), str(count))
        assert ended.returncode == 0, ended.stderr
        peaks.append(float(ended.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 60
