"""`EMA`: its averages against a loop in numpy and against Keras' own; it resumes, and its networks are compiled."""

import keras
import numpy as np
import pytest

import keras_fge
from conftest import batch_norm_network, images, logits_loss, slow_but_on_torch, slow_on_tensorflow, to_numpy, values
from keras_fge.run.state import StateFile

STEPS, EPOCHS = 4, 3


@pytest.fixture(autouse=True)
def state_of_every_epoch(monkeypatch):
    """Else it would depend on the time that an epoch takes."""
    monkeypatch.setattr(StateFile, "is_due", lambda self, least=0: True)


class Recorder(keras.callbacks.Callback):
    """All weights after each update, by a hook that `EMA` does not use."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(values(self.model.weights))


def network(optimizer=None):
    keras.utils.set_random_seed(3)
    model = batch_norm_network()
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return model


def fit(model, ema, *callbacks, epochs=EPOCHS, **arguments):
    x, y = images(52)  # The last batch is smaller.
    return model.fit(ema.batches(x, y, 13), epochs=epochs, verbose=0, callbacks=[ema, *callbacks], **arguments)


def mean_of(samples, ages):
    """The mean of samples with the weights of the docstring, all at once: each sample stands for the updates before."""
    shares = np.array([np.exp(-age) - np.exp(-older) for age, older in ages])
    return sum(share * sample for share, sample in zip(shares / shares.sum(), samples))


@slow_on_tensorflow
@pytest.mark.parametrize("every", [1, 3, None])
def test_averages_are_those_of_a_loop(every):
    model, recorder = network(), Recorder()
    horizons = (0.3, 2.0)
    ema = keras_fge.EMA(horizons, every)
    fit(model, ema, recorder)
    # At the end of each epoch, too. A twentieth of 0.3 epochs is less than an update.
    sampled = [3, 4, 7, 8, 11, 12] if every == 3 else range(1, 13)
    trainable = [variable.trainable for variable in model.weights]
    assert len(ema.snapshots) == 2 and sum(trainable) < len(trainable)
    for snapshot, horizon in zip(ema.snapshots, horizons):
        for index, array in enumerate(snapshot.weights):
            samples = [recorder.weights[step - 1][index].astype("float64") for step in sampled]
            ages = [
                ((12 - step) / (horizon * STEPS), (12 - before) / (horizon * STEPS))
                for step, before in zip(sampled, [0, *sampled])
            ]
            expected = mean_of(samples, ages) if trainable[index] else samples[-1]
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ema.snapshots[0].weights[0], ema.snapshots[1].weights[0], atol=1e-5)


def test_training_is_as_without_it():
    with_it = network()
    fit(with_it, keras_fge.EMA(every=1))
    x, y = images(52)
    without = network()
    without.fit(keras_fge.Batches(x, y, 13), epochs=EPOCHS, verbose=0)
    for ours, theirs in zip(values(with_it.weights), values(without.weights)):
        np.testing.assert_array_equal(ours, theirs)


def test_it_is_the_average_of_keras_without_its_start():
    """Keras' average begins with the weights w_1 after the first update: a = m^n w_1 + (1 - m^n) times ours."""
    momentum, n = 0.8, STEPS * EPOCHS
    model = network(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=momentum, ema_overwrite_frequency=None))
    ema, recorder = keras_fge.EMA(-1 / (STEPS * np.log(momentum)), every=1), Recorder()
    fit(model, ema, recorder)
    first, trainable = recorder.weights[0], [variable.trainable for variable in model.weights]
    # As `keras.callbacks.SwapEMAWeights` finds it.
    theirs = [to_numpy(average) for average in model.optimizer._model_variables_moving_average]
    ours = zip(ema.snapshots[0].weights, first, trainable, strict=True)
    for average, (own, start) in zip(theirs, [(a, b) for a, b, is_trained in ours if is_trained], strict=True):
        expected = momentum**n * start + (1 - momentum**n) * own
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)


@slow_but_on_torch
@pytest.mark.parametrize("epoch", [1, 2])
def test_it_goes_on_from_its_folder(tmp_path, epoch):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, now, logs=None):
            if now == epoch:
                raise KeyboardInterrupt

    whole = keras_fge.EMA((0.5, 2), every=3)
    expected = fit(network(), whole).history
    with pytest.raises(KeyboardInterrupt):
        fit(network(), keras_fge.EMA((0.5, 2), 3, tmp_path / "run"), Stop())
    with pytest.raises(ValueError, match="holds a run already"):
        fit(network(), keras_fge.EMA((0.5, 2), 3, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"its horizons is \[0.5, 2.0\], here it is \[0.5, 3.0\]"):
        fit(network(), keras_fge.EMA((0.5, 3), 3, tmp_path / "run", resume=True))
    parts = keras_fge.EMA((0.5, 2), 3, tmp_path / "run", resume=True)
    assert fit(network(), parts).history == expected
    for ours, theirs in zip(parts.snapshots, whole.snapshots, strict=True):
        assert ours.step == theirs.step == STEPS * EPOCHS
        assert all(np.array_equal(a, b) for a, b in zip(ours.weights, theirs.weights))
    again = keras_fge.EMA((0.5, 2), 3, tmp_path / "run", resume=True)
    fit(network(), again)  # Nothing is left to train, and the averages are there.
    assert all(np.array_equal(a, b) for a, b in zip(again.snapshots[1].weights, whole.snapshots[1].weights))


@slow_but_on_torch
def test_a_checkpoint_does_not_lose_the_averages(tmp_path):
    fit(network(), keras_fge.EMA(2, directory=tmp_path / "run"), epochs=1)
    before = (tmp_path / "run" / "state.npz").read_bytes()
    with pytest.raises(ValueError, match="holds a training with `EMA`, whose averages would be lost"):
        fit(network(), keras_fge.Checkpoint(tmp_path / "run"))
    assert (tmp_path / "run" / "state.npz").read_bytes() == before
    fit(network(), keras_fge.Checkpoint(tmp_path / "other"), epochs=1)
    with pytest.raises(ValueError, match="is no state of a training"):
        fit(network(), keras_fge.EMA(2, directory=tmp_path / "other", resume=True))


@slow_on_tensorflow
def test_networks_and_ensemble_of_the_averages():
    x, y = images(52)
    ema = keras_fge.EMA((0.5, 2))
    fit(network(), ema)
    with pytest.raises(ValueError, match="`train`"):
        ema.network(2)
    short, long = (ema.network(horizon, train=(x, y)) for horizon in (0.5, 2))
    ensemble = ema.ensemble()
    assert len(ensemble) == 2 and set(ensemble.evaluate(x, y)) == {"error", "nll", "brier", "ece"}
    statistics = [v for v in long.weights if "moving_mean" in v.path]
    expected = keras.models.clone_model(long)
    expected.set_weights(ema.snapshots[1].weights)
    first = keras.Model(expected.inputs, expected.layers[1].output).predict(x, verbose=0)
    np.testing.assert_allclose(to_numpy(statistics[0]), first.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)
    losses = [network.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] for network in (short, long)]
    assert all(0 <= accuracy <= 1 for accuracy in losses)
    nll = [keras_fge.Ensemble.of([network]).evaluate(x, y)["nll"] for network in (short, long)]
    best = values(ema.best(x, y, train=(x, y)).weights)
    assert all(np.array_equal(a, b) for a, b in zip(best, values((short, long)[int(np.argmin(nll))].weights)))
    long.fit(x, y, epochs=1, verbose=0)  # It is compiled, with an optimizer of its own.


@slow_but_on_torch
def test_bad_arguments():
    for horizons in ((), (0,), (1, 1), (-2.0,), ("a",)):
        with pytest.raises(ValueError, match="`horizons`"):
            keras_fge.EMA(horizons)
    with pytest.raises(ValueError, match="`every`"):
        keras_fge.EMA(every=0)
    with pytest.raises(ValueError, match="`resume=True` needs"):
        keras_fge.EMA(resume=True)
    ema = keras_fge.EMA()
    assert ema.snapshots == []
    with pytest.raises(ValueError, match="There is no average yet"):
        ema.ensemble()
    with pytest.raises(ValueError, match="`horizon` must be one of"):
        ema.network(3)
    with pytest.raises(ValueError, match="cannot share one `fit`"):
        fit(network(), keras_fge.EMA(), keras_fge.FGE(0.1))
