"""`PaperTraining`: the paper's rate and step, against PyTorch's update in numpy, alone and before the cycles of FGE."""

import keras
import numpy as np
import pytest

import keras_fge
from conftest import to_numpy
from keras_fge.core.keras_internals import optimizer_calls
from test_momentum import Break, X, Y, assert_close, fit, regression, torch_sgd, triangle


def paper(epoch, rate, epochs):
    """The authors' code: constant to one half, linear to 1 % at nine tenths, constant."""
    share = (epoch + 1) / epochs
    return rate * (1.0 if share <= 0.5 else 0.01 if share >= 0.9 else 1.0 - (share - 0.5) / 0.4 * 0.99)


@pytest.mark.parametrize("nesterov", [False, True])
def test_weights_are_those_of_the_papers_training(nesterov):
    network = regression(nesterov, rate=0.4)  # What the optimizer had before plays no part.
    history = fit(network, 10, keras_fge.PaperTraining(0.02, epochs=10)).history
    rates = [paper(epoch, 0.02, 10) for epoch in range(10)]
    *_, (w, _) = torch_sgd([rate for rate in rates for _ in range(6)], nesterov=nesterov)
    assert_close(to_numpy(network.weights[0]), w)
    assert history["learning_rate"] == pytest.approx(rates, rel=1e-4)
    assert float(to_numpy(network.optimizer.learning_rate)) == pytest.approx(rates[-1], rel=1e-5)


def test_before_the_cycles_in_one_fit():
    network = regression()
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=12, start_epoch=7)
    fit(network, 10, keras_fge.PaperTraining(0.02, epochs=10, until=7), fge)
    rates = [paper(epoch, 0.02, 10) for epoch in range(7) for _ in range(6)]
    ws = [w for w, _ in torch_sgd([*rates, *(triangle(step, 0.05, 0.0005, 12) for step in range(1, 19))])]
    assert [snapshot.step for snapshot in fge.snapshots] == [6, 18]
    for snapshot in fge.snapshots:
        assert_close(snapshot.weights[0], ws[42 + snapshot.step - 1])


def test_after_cycles_that_were_interrupted():
    network = regression(rate=0.04)
    with pytest.raises(KeyboardInterrupt):
        fit(network, 2, keras_fge.FGE(0.05, 0.0005, cycle_steps=8), Break())
    done = optimizer_calls(network.optimizer)  # On JAX, those of the last epoch that was finished.
    last = triangle(done, 0.05, 0.0005, 8) if done else 0.04
    w, u = network.get_weights()[0], to_numpy(network.optimizer.momentums[0])
    fit(network, 4, keras_fge.PaperTraining(0.02, epochs=4))
    rates = [paper(epoch, 0.02, 4) for epoch in range(4) for _ in range(6)]
    *_, (expected, _) = torch_sgd(rates, w, -u / last)
    assert_close(to_numpy(network.weights[0]), expected)


def test_other_optimizers_get_the_rate_alone():
    networks = [regression(optimizer=keras.optimizers.AdamW(0.5)) for _ in range(2)]
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: paper(epoch, 0.02, 4))
    for network, callback in zip(networks, (keras_fge.PaperTraining(0.02, epochs=4), schedule)):
        fit(network, 4, callback)
    assert to_numpy(networks[0].weights[0]) == pytest.approx(to_numpy(networks[1].weights[0]), rel=1e-6)


def test_a_training_in_parts_is_one_training(tmp_path):
    def run(folder, *parts):
        for epochs in parts:
            network = regression()
            checkpoint = keras_fge.Checkpoint(tmp_path / folder)
            batches = checkpoint.batches(X, Y, batch_size=6)
            callbacks = [keras_fge.PaperTraining(0.02, epochs=10), checkpoint]
            network.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return network.get_weights()[0]

    assert np.array_equal(run("whole", 10), run("parts", 6, 8, 10))


def test_what_does_not_fit_is_refused():
    for arguments, message in (
        ((0.0, 3), "`learning_rate` must be positive"),
        ((0.1, 0), "`epochs` must be a positive integer"),
        ((0.1, 3, 1.5), "`until` must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_fge.PaperTraining(*arguments)
    network = regression()
    fge = keras_fge.FGE(0.05, 0.0005, cycle_steps=12, start_epoch=2)
    with pytest.raises(ValueError, match=r"give it `until=2`, or leave it out\. Received: until=6"):
        fit(network, 6, keras_fge.PaperTraining(0.02, epochs=6), fge)
    scheduled = regression(rate=keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    with pytest.raises(ValueError, match=r"a number as learning rate\. Received: a schedule"):
        fit(scheduled, 2, keras_fge.PaperTraining(0.02, epochs=2))
