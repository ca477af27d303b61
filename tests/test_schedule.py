"""Learning rates against closed forms, and against the updates that the optimizer really made."""

import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_fge
from conftest import logits_loss, slow_but_on_torch, slow_on_jax, slow_on_tensorflow, to_numpy, values
from keras_fge.learning_rate import scheduled_optimizer
from keras_fge.run import resumable

BACKEND = keras.backend.backend()


def fge_by_hand(step, high, low, cycle):
    t = ((step - 1) % cycle + 1) / cycle
    return (1 - 2 * t) * high + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1) * high


def sse_by_hand(step, high, cycle):
    return high / 2 * (math.cos(math.pi * ((step - 1) % cycle) / cycle) + 1)


@slow_on_jax
@pytest.mark.parametrize("cycle", [2, 4, 10, 782])
def test_triangular(cycle):
    steps = np.arange(1, 3 * cycle + 1)
    expected = [fge_by_hand(step, 0.05, 0.0005, cycle) for step in steps]
    rates = to_numpy(keras_fge.triangular(steps, 0.05, 0.0005, cycle))
    assert rates == pytest.approx(np.array(expected), abs=1e-8)
    assert rates[cycle // 2 - 1] == pytest.approx(0.0005) and rates[cycle - 1] == pytest.approx(0.05)
    assert float(to_numpy(keras_fge.triangular(7, 0.05, 0.0005, cycle))) == pytest.approx(expected[6 % len(steps)])


def test_triangular_is_exact_after_many_steps():
    late = 2**24 + 3  # Not an integer in float32.
    expected = fge_by_hand(late, 1.0, 0.0, 10)
    assert float(to_numpy(keras_fge.triangular(np.array(late, "int32"), 1.0, 0.0, 10))) == pytest.approx(expected)


@slow_on_jax
@pytest.mark.parametrize("cycle", [1, 5, 100])
def test_cosine(cycle):
    steps = np.arange(1, 3 * cycle + 1)
    expected = [sse_by_hand(step, 0.1, cycle) for step in steps]
    assert to_numpy(keras_fge.cosine(steps, 0.1, cycle)) == pytest.approx(np.array(expected), abs=1e-7)


def test_piecewise_linear():
    rates = to_numpy(keras_fge.piecewise_linear(np.arange(1, 201), 0.1, 200))
    assert rates[:100] == pytest.approx(0.1)
    assert rates[99:180] == pytest.approx(np.linspace(0.1, 0.001, 81), abs=1e-7)
    assert rates[179:] == pytest.approx(0.001, abs=1e-7)


class UnitGradient(keras.Model):
    """Its loss is its only weight: plain SGD moves it by minus the learning rate, and it tells what was applied."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(shape=(), initializer="zeros", name="w")

    def call(self, x):
        return 0 * x + self.w


def unit_gradient_model(rate=0.25, **compile_arguments):
    model = UnitGradient()
    loss = lambda y, prediction: ops.mean(prediction, axis=-1)  # noqa: E731
    model.compile(keras.optimizers.SGD(rate), loss, **compile_arguments)
    return model


def fit(model, epochs, callbacks=(), steps=6):
    x = np.zeros((2 * steps, 1), "float32")
    return model.fit(x, x, batch_size=2, epochs=epochs, verbose=0, callbacks=list(callbacks))


def weight(model):
    return float(to_numpy(model.w))


COMPILED = [{}] if BACKEND == "torch" else [{}, {"jit_compile": True}, {"steps_per_execution": 3}]


@pytest.mark.parametrize("arguments", COMPILED, ids=str)
@pytest.mark.parametrize("fitted_before", [False, True])
def test_fge_applies_the_schedule_and_collects_at_the_minimum(arguments, fitted_before):
    model = unit_gradient_model(**arguments)
    if fitted_before:
        fit(model, epochs=1)
        assert weight(model) == pytest.approx(-6 * 0.25)
    start = weight(model)
    fge = keras_fge.FGE(1.0, 0.1, cycle_steps=12)
    history = fit(model, epochs=6, callbacks=[fge])
    rates = np.array([fge_by_hand(step, 1.0, 0.1, 12) for step in range(1, 37)])
    after = start - np.cumsum(rates)
    assert weight(model) == pytest.approx(after[-1], abs=1e-5)
    assert [snapshot.step for snapshot in fge.snapshots] == [6, 18, 30]
    for snapshot in fge.snapshots:
        assert snapshot.learning_rate == pytest.approx(0.1)
        assert snapshot.weights[0] == pytest.approx(after[snapshot.step - 1], abs=1e-5)
    assert history.history["learning_rate"] == pytest.approx(rates[5::6])


@pytest.mark.parametrize("arguments", COMPILED, ids=str)
def test_snapshot_ensemble_applies_the_schedule_and_collects_at_the_end(arguments):
    model = unit_gradient_model(**arguments)
    sse = keras_fge.SnapshotEnsemble(0.5, cycle_epochs=2)
    fit(model, epochs=4, callbacks=[sse])
    after = -np.cumsum([sse_by_hand(step, 0.5, 12) for step in range(1, 25)])
    assert [snapshot.step for snapshot in sse.snapshots] == [12, 24]
    assert [snapshot.weights[0] for snapshot in sse.snapshots] == pytest.approx(after[[11, 23]], abs=1e-5)


def test_cycle_of_one_epoch_collects_in_the_middle_of_epochs():
    model = unit_gradient_model()
    fge = keras_fge.FGE(1.0, 0.0, cycle_epochs=1)
    fit(model, epochs=2, callbacks=[fge])
    after = -np.cumsum([fge_by_hand(step, 1.0, 0.0, 6) for step in range(1, 13)])
    assert [snapshot.step for snapshot in fge.snapshots] == [3, 9]
    assert [snapshot.weights[0] for snapshot in fge.snapshots] == pytest.approx(after[[2, 8]], abs=1e-5)


def test_optimizer_and_compiled_function_are_as_before_afterwards():
    model = unit_gradient_model()
    model.make_train_function()
    fit(model, epochs=1)
    function, variables = model.train_function, list(map(id, model.optimizer.variables))
    fit(model, epochs=2, callbacks=[keras_fge.FGE(1.0, 0.1)])
    assert model.train_function is function
    assert list(map(id, model.optimizer.variables)) == variables
    assert float(to_numpy(model.optimizer.learning_rate)) == 0.25
    model.optimizer.learning_rate = 0.5
    before = weight(model)
    fit(model, epochs=1)
    assert before - weight(model) == pytest.approx(6 * 0.5)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, hook, batch):
        super().__init__()
        setattr(self, hook, self.interrupt)
        self.batch = batch

    def interrupt(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


@slow_but_on_torch
@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_an_interrupted_run_leaves_nothing_behind(hook):
    model = unit_gradient_model()
    fge = keras_fge.FGE(1.0, 0.1, cycle_steps=4)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=2, callbacks=[fge, Interrupt(hook, 4)])
    assert [snapshot.step for snapshot in fge.snapshots] == [2]
    assert float(to_numpy(model.optimizer.learning_rate)) == 0.25
    before = weight(model)
    fit(model, epochs=1)
    assert before - weight(model) == pytest.approx(6 * 0.25)
    before = weight(model)
    fit(model, epochs=2, callbacks=[fge])  # The same callback again: a new cycle, and the old snapshots stay.
    rates = [fge_by_hand(step, 1.0, 0.1, 4) for step in range(1, 13)]
    assert before - weight(model) == pytest.approx(sum(rates), abs=1e-5)
    assert [snapshot.step for snapshot in fge.snapshots] == [2, 2, 6, 10]


def test_updates_that_loss_scaling_skips_do_not_count():
    model = UnitGradient()
    inner = keras.optimizers.SGD(0.25)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1e38, dynamic_growth_steps=1000)
    model.compile(optimizer, lambda y, prediction: 16 * ops.mean(prediction, axis=-1))  # Overflows, for a few steps.
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=4)
    history = fit(model, epochs=4, callbacks=[fge])
    done = int(to_numpy(inner.iterations))
    assert done < 24
    after = -16 * np.cumsum([fge_by_hand(step, 0.1, 0.01, 4) for step in range(1, done + 1)])
    assert [snapshot.step for snapshot in fge.snapshots] == list(range(2, done + 1, 4))
    for snapshot in fge.snapshots:
        assert snapshot.weights[0] == pytest.approx(after[snapshot.step - 1], abs=1e-4)
    assert len(history.history["learning_rate"]) == 4


@pytest.mark.skipif(BACKEND == "torch", reason="Keras allows no steps_per_execution on torch")
def test_skipped_updates_in_executions_of_several_steps():
    model = UnitGradient()
    inner = keras.optimizers.SGD(0.25)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1e38, dynamic_growth_steps=1000)
    model.compile(optimizer, lambda y, p: 16 * ops.mean(p, axis=-1), steps_per_execution=2)
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=4)
    fit(model, epochs=4, callbacks=[fge])
    done = int(to_numpy(inner.iterations))
    after = -16 * np.cumsum([fge_by_hand(step, 0.1, 0.01, 4) for step in range(1, done + 1)])
    assert done < 24 and len(fge.snapshots) >= (done - 2) // 4
    for snapshot in fge.snapshots:
        assert snapshot.step % 4 in (2, 3)
        assert snapshot.weights[0] == pytest.approx(after[snapshot.step - 1], abs=1e-4)


def test_two_cyclical_callbacks_in_one_fit():
    model = unit_gradient_model()
    callbacks = [keras_fge.FGE(0.1, 0.01, cycle_steps=4), keras_fge.SnapshotEnsemble(0.1, cycle_steps=4)]
    with pytest.raises(ValueError, match="FGE and SnapshotEnsemble cannot share one `fit`"):
        fit(model, epochs=1, callbacks=callbacks)
    fit(model, epochs=1)
    assert weight(model) == pytest.approx(-6 * 0.25)


@pytest.mark.parametrize("steps", [6, 7])
def test_gradient_accumulation_counts_batches_and_snapshots_follow_an_update(steps):
    model = UnitGradient()
    optimizer = keras.optimizers.SGD(0.25, gradient_accumulation_steps=2)
    model.compile(optimizer, lambda y, prediction: ops.mean(prediction, axis=-1))
    fit(model, epochs=1, steps=steps)  # Of 7 batches, the last waits for its update.
    begun = steps % 2
    start = weight(model)
    fge = keras_fge.FGE(1.0, 0.1, cycle_steps=8)
    fit(model, epochs=4, callbacks=[fge], steps=steps)
    updates = (4 * steps + begun) // 2
    after = start - np.cumsum([fge_by_hand(step, 1.0, 0.1, 4) for step in range(1, updates + 1)])
    assert weight(model) == pytest.approx(after[-1], abs=1e-5)
    assert [snapshot.step for snapshot in fge.snapshots] == list(range(4, 4 * steps + begun + 1, 8))
    for snapshot in fge.snapshots:
        assert snapshot.weights[0] == pytest.approx(after[snapshot.step // 2 - 1], abs=1e-5)
    with pytest.raises(ValueError, match=r"between two updates.* every gradient_accumulation_steps=2 .*multiple of 4"):
        fit(model, epochs=1, callbacks=[keras_fge.FGE(0.1, 0.01, cycle_steps=6)])


@slow_on_tensorflow
@pytest.mark.parametrize("rate", ["number", "schedule"])
@pytest.mark.parametrize("arguments", COMPILED, ids=str)
def test_after_ordinary_training_in_one_fit(arguments, rate):
    own = keras.optimizers.schedules.PolynomialDecay(0.5, 12, 0.1)
    model = unit_gradient_model(own if rate == "schedule" else 0.25, **arguments)
    fge = keras_fge.FGE(1.0, 0.1, cycle_steps=12, start_epoch=2)
    history = fit(model, epochs=5, callbacks=[fge])
    before = [float(own(step)) for step in range(12)] if rate == "schedule" else [0.25] * 12
    rates = np.array(before + [fge_by_hand(step, 1.0, 0.1, 12) for step in range(1, 19)])
    after = -np.cumsum(rates)
    assert weight(model) == pytest.approx(after[-1], abs=1e-5)
    assert [snapshot.step for snapshot in fge.snapshots] == [6, 18]
    assert [snapshot.weights[0] for snapshot in fge.snapshots] == pytest.approx(after[[17, 29]], abs=1e-5)
    assert history.history["learning_rate"][2:] == pytest.approx(rates[17::6], abs=1e-6)
    with pytest.raises(ValueError, match="0 epochs of 6 steps from epoch 2 on and would end before the first snapshot"):
        fit(model, epochs=2, callbacks=[keras_fge.FGE(1.0, 0.1, cycle_steps=12, start_epoch=2)])


def test_after_a_learning_rate_of_another_callback():
    model = unit_gradient_model()
    paper = keras.callbacks.LearningRateScheduler(lambda epoch: float(keras_fge.piecewise_linear(epoch + 1, 0.5, 5)))
    history = fit(model, epochs=5, callbacks=[paper, keras_fge.FGE(1.0, 0.1, cycle_steps=12, start_epoch=3)])
    first = np.repeat(to_numpy(keras_fge.piecewise_linear(np.arange(1, 4), 0.5, 5)), 6)
    rates = [*first, *(fge_by_hand(step, 1.0, 0.1, 12) for step in range(1, 13))]
    assert weight(model) == pytest.approx(-np.sum(rates), abs=1e-5)
    assert history.history["learning_rate"] == pytest.approx(rates[5::6], abs=1e-6)


@pytest.mark.parametrize("kind", ["generator of unknown length", "class weights"])
def test_other_kinds_of_data(kind):
    x, y = np.zeros((12, 1), "float32"), np.ones((12, 1), "float32")
    model = unit_gradient_model()
    fge = keras_fge.FGE(1.0, 0.1, cycle_steps=4)
    if kind == "class weights":
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[fge], class_weight={1: 0.5})
    else:
        model.fit(((x[:2], y[:2]) for _ in range(6)), verbose=0, callbacks=[fge])
    factor = 0.5 if kind == "class weights" else 1.0
    after = -factor * np.cumsum([fge_by_hand(step, 1.0, 0.1, 4) for step in range(1, 7)])
    assert [snapshot.step for snapshot in fge.snapshots] == [2, 6]
    assert [snapshot.weights[0] for snapshot in fge.snapshots] == pytest.approx(after[[1, 5]], abs=1e-5)


@slow_but_on_torch
@pytest.mark.parametrize("data", ["arrays", "data set"])
def test_metrics_of_each_cycle(trained, data, tmp_path):
    start, _, x, y = trained
    network = keras.models.clone_model(start)
    network.set_weights(start.get_weights())
    network.compile(keras.optimizers.SGD(0.01), logits_loss())

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[25 * index : 25 * index + 25], y[25 * index : 25 * index + 25]

    validation = (x, y) if data == "arrays" else Batches()
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=validation)
    history = network.fit(x, y, batch_size=25, epochs=5, verbose=0, callbacks=[fge]).history
    sizes = fge.ensemble().evaluate_sizes(x, y)
    singles = [keras_fge.Ensemble(network, [s], from_logits=True).evaluate(x, y) for s in fge.snapshots]
    trainable = [index for index, v in enumerate(network.weights) if v.trainable]
    flat = [np.concatenate([s.weights[i].ravel() for i in trainable]) for s in fge.snapshots]
    first = np.concatenate([start.get_weights()[i].ravel() for i in trainable])
    assert len(fge.snapshots) == 3
    for k, snapshot in enumerate(fge.snapshots):
        metrics = snapshot.metrics
        assert metrics["member_error"] == pytest.approx(singles[k]["error"])
        assert metrics["ensemble_error"] == pytest.approx(sizes["error"][k])
        assert metrics["ensemble_nll"] == pytest.approx(sizes["nll"][k], rel=1e-5)
        assert metrics["distance_from_start"] == pytest.approx(np.linalg.norm(flat[k] - first), rel=1e-5)
        last = first if k == 0 else flat[k - 1]
        assert metrics["distance_from_last"] == pytest.approx(np.linalg.norm(flat[k] - last), rel=1e-4)
        for name, value in metrics.items():
            assert history[name][2 * k] == value
    figure = fge.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    rate, error, distance = figure.axes
    assert rate.lines[-1].get_ydata() == pytest.approx([fge_by_hand(i, 0.05, 0.001, 4) for i in range(1, 11)])
    assert {text.get_text() for text in error.get_legend().get_texts()} == {"member", "ensemble"}
    assert distance.get_xlabel() == "iteration"


@slow_but_on_torch
def test_the_ensemble_so_far_goes_on_in_a_second_fit(trained):
    start, _, x, y = trained
    network = keras.models.clone_model(start)
    network.compile(keras.optimizers.SGD(0.01), logits_loss())
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=(x, y))
    for _ in range(2):
        network.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    nll = fge.ensemble().evaluate(x, y)["nll"]
    assert len(fge.snapshots) == 2 and fge.snapshots[-1].metrics["ensemble_nll"] == pytest.approx(nll, rel=1e-5)
    assert len(fge.plot().axes[0].lines) == 2  # The last run only: one snapshot and the learning rate.


@pytest.mark.parametrize("problem", ["order", "outputs"])
def test_validation_data_that_cannot_be_used(trained, problem):
    start, _, x, y = trained
    network = keras.models.clone_model(start)
    network.compile(keras.optimizers.SGD(0.01), logits_loss())
    before = values(network.weights)

    class Shuffled(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            order = np.random.default_rng().permutation(len(x))
            return x[order], y[order]

    validation = Shuffled() if problem == "order" else (x, np.zeros((len(x), 7)))
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=4, validation_data=validation)
    with pytest.raises(
        ValueError, match="`validation_data` changes its order" if problem == "order" else "`y` must have"
    ):
        network.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.weights)))  # Before the first update.


@slow_but_on_torch
@pytest.mark.parametrize(
    ("make", "is_told"),
    [
        (lambda path: keras.callbacks.CSVLogger(path / "log.csv"), True),
        (lambda path: keras.callbacks.ModelCheckpoint(path / "best.keras", monitor="ensemble_nll", mode="min"), True),
        (lambda path: keras.callbacks.EarlyStopping("ensemble_error", mode="min"), True),
        (lambda path: keras.callbacks.EarlyStopping("loss"), False),
    ],
)
def test_loggers_that_stand_before_are_told(trained, tmp_path, make, is_told):
    start, _, x, y = trained
    network = keras.models.clone_model(start)
    network.compile(keras.optimizers.SGD(0.01), logits_loss())

    def fit(*callbacks):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            network.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
        return [
            str(warning.message) for warning in caught if "stands before FGE in `callbacks`" in str(warning.message)
        ]

    def fge():
        return keras_fge.FGE(0.05, 0.001, cycle_epochs=2, validation_data=(x, y))

    messages = fit(make(tmp_path), fge())
    assert len(messages) == is_told and all("'ensemble_nll': list it after." in message for message in messages)
    assert not fit(fge(), make(tmp_path))
    if "best" in str(list(tmp_path.iterdir())):
        assert (tmp_path / "best.keras").exists()  # It saw the metric.


def test_optimizers_without_one_learning_rate():
    with pytest.raises(ValueError, match="An optimizer with one learning rate is needed"):
        scheduled_optimizer(keras.optimizers.Optimizer)


def test_a_run_that_ends_before_its_first_snapshot_warns():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    message = (
        r"no snapshot: training ended after 1 steps of the cycles; the first is due after 2\. `cycle_steps=2` would"
    )
    with pytest.warns(UserWarning, match=message):
        fit(unit_gradient_model(), epochs=1, callbacks=[keras_fge.FGE(0.1, 0.01, cycle_steps=4), Stop()])

    class StopLater(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model = unit_gradient_model()
    with pytest.warns(UserWarning, match=r"`cycle_steps=\d+` would have fitted"):
        fit(model, epochs=9, callbacks=[keras_fge.FGE(0.1, 0.01, cycle_epochs=8), StopLater()])
    with pytest.warns(UserWarning, match="ended before epoch 3, with which the cycles begin"):
        fit(model, epochs=9, callbacks=[keras_fge.FGE(0.1, 0.01, cycle_steps=2, start_epoch=3), StopLater()])
    assert repr(keras_fge.FGE(0.1, 0.01)) == "FGE(0 snapshots, cycles of 2 epochs from epoch 0)"


@slow_on_jax
def test_snapshots_hold_all_weights_and_stay_as_they_were(trained):
    start, _, x, y = trained
    network = keras.models.clone_model(start)
    network.set_weights(start.get_weights())
    network.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fge = keras_fge.FGE(0.05, 0.001, cycle_steps=2)
    network.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[fge])
    assert len(fge.snapshots) == 2
    assert [w.shape for w in fge.snapshots[0].weights] == [w.shape for w in network.get_weights()]
    kept = [w.copy() for w in fge.snapshots[0].weights]
    network.fit(x, y, verbose=0)
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(kept, fge.snapshots[0].weights))
    ensemble = fge.ensemble()
    assert len(ensemble) == 2 and ensemble.from_logits
    assert all(not np.any(array) for array in values(network.weights))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras_fge.FGE(0.01, 0.05), "`min_learning_rate` must be at least 0 and below"),
        (lambda: keras_fge.FGE(0.05, 0.05), "`min_learning_rate` must be at least 0 and below"),
        (lambda: keras_fge.FGE(0.05, 0.01, cycle_steps=1), "must have at least 2 iterations.* Received: 1"),
        (lambda: keras_fge.FGE(0.05, 0.01, cycle_epochs=0), "`cycle_epochs` must be a positive integer"),
        (lambda: keras_fge.FGE(0.05, 0.01, cycle_epochs=1.5), "`cycle_epochs` must be a positive integer"),
        (lambda: keras_fge.FGE(0.05, 0.01, cycle_epochs=2, cycle_steps=4), "either `cycle_epochs` or `cycle_steps`"),
        (lambda: keras_fge.FGE(0.05, 0.01, start_epoch=-1), "`start_epoch` must be 0 or a positive integer"),
        (lambda: keras_fge.FGE(0.05, 0.01, cycle_steps="4"), "`cycle_steps` must be a positive integer"),
        (lambda: keras_fge.FGE(0.05, 0.01, resume=True), "`resume=True` needs the `directory`"),
        (lambda: keras_fge.FGE(0.05, 0.01, validation_data=iter([])), "`validation_data` is read many times"),
        (lambda: keras_fge.FGE(0.05, 0.01, validation_data=(1, 2, 3, 4)), r"`validation_data` must be \(x, y\)"),
        (lambda: keras_fge.SnapshotEnsemble(0.1), "either `cycle_epochs` or `cycle_steps`"),
        (lambda: keras_fge.SnapshotEnsemble(0.0, cycle_epochs=2), "`max_learning_rate` must be positive"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("fge", "steps", "message"),
    [
        ({"cycle_epochs": 1}, 1, "must have at least 2 iterations.* Received: 1"),
        ({"cycle_epochs": 8}, 5, "2 epochs of 5 steps and would end before the first snapshot.*after 20 steps"),
    ],
)
def test_runs_that_cannot_work_fail_before_the_first_update(fge, steps, message):
    model = unit_gradient_model()
    with pytest.raises(ValueError, match=message):
        fit(model, epochs=2, callbacks=[keras_fge.FGE(0.1, 0.01, **fge)], steps=steps)
    assert weight(model) == 0
    fit(model, epochs=1, steps=4)
    assert weight(model) == pytest.approx(-4 * 0.25)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras allows no steps_per_execution on torch")
def test_cycles_that_do_not_fit_the_executions():
    model = unit_gradient_model(steps_per_execution=4)
    with pytest.raises(ValueError, match="would fall inside an execution of steps_per_execution=4"):
        fit(model, epochs=4, callbacks=[keras_fge.FGE(0.1, 0.01, cycle_steps=12)])
    assert weight(model) == 0


def test_epochs_of_unknown_length_need_cycle_steps():
    def batches():
        while True:
            yield np.zeros((2, 1), "float32"), np.zeros((2, 1), "float32")

    model = unit_gradient_model()
    with pytest.raises(ValueError, match="Use `cycle_steps`, or pass `steps_per_epoch`"):
        model.fit((b for b, _ in zip(batches(), range(4))), verbose=0, callbacks=[keras_fge.FGE(0.1, 0.01)])
    fge = keras_fge.FGE(0.1, 0.01, cycle_epochs=2)
    model.fit(batches(), epochs=2, steps_per_epoch=3, verbose=0, callbacks=[fge])
    assert [snapshot.step for snapshot in fge.snapshots] == [3]


def test_no_snapshot_yet_and_another_network():
    fge = keras_fge.FGE(0.1, 0.01, cycle_steps=2)
    fge.set_model(unit_gradient_model())
    with pytest.raises(ValueError, match="No snapshot has been collected yet"):
        fge.ensemble()
    fit(unit_gradient_model(), epochs=1, callbacks=[fge])
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match="does not fit network"):
        fit(other, epochs=1, callbacks=[fge])


def test_a_regression_has_a_panel_of_its_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    fge = keras_fge.FGE(0.01, 0.001, cycle_steps=4, validation_data=(x, x[:, :1]))
    model.fit(x, x[:, :1], batch_size=10, epochs=2, verbose=0, callbacks=[fge])
    figure = fge.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "mean squared error", "distance"]
    assert figure._repr_png_().startswith(b"\x89PNG")  # What a notebook shows at the end of a cell.


def test_the_frame_of_fit_is_read_once(monkeypatch):
    """What was read of it stays alive, such as TensorFlow's iterator over an epoch, whose end can take seconds."""
    epochs, read = [], []
    fge = keras_fge.FGE(0.1, 0.01, cycle_epochs=2)
    seen = resumable.fit_around
    monkeypatch.setattr(resumable, "fit_around", lambda callback: read.append(len(epochs)) or seen(callback))
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    model.fit(fge.batches(x, y, 4), epochs=4, verbose=0, callbacks=[count, fge])
    assert len(epochs) == 4 and read == [0]
