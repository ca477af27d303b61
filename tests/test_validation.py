"""Validation along the curve against measurements of the plain networks there."""

import keras
import numpy as np
import pytest

import curves
from conftest import logits_loss, slow_on_tensorflow, values


def connected(trained):
    start, end, x, y = trained
    model = curves.connect(start, end, seed=0)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss(), metrics=["accuracy"])
    return model, x, y


@slow_on_tensorflow
def test_logs_are_those_of_the_networks_on_the_curve(trained):
    model, x, y = connected(trained)
    validation = curves.PathValidation((x[:30], y[:30]), (x, y), points=(0, 0.3, 1), batch_size=50)
    history = model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=[validation]).history
    losses, errors = [], []
    for t in (0, 0.3, 1):
        network = model.network_at(t)
        if t == 0.3:
            curves.update_batch_norm(network, (x, y), batch_size=50)
        network.compile(loss=logits_loss(), metrics=["accuracy"])
        measured = network.evaluate(x[:30], y[:30], verbose=0, return_dict=True)
        losses.append(measured["loss"])
        errors.append(1 - measured["accuracy"])
    last = {name: values[-1] for name, values in history.items() if name.startswith("val_path_")}
    expected = {"loss": losses, "error": errors}
    assert last == pytest.approx(
        {f"val_path_{kind}_{name}": getattr(np, kind)(v) for name, v in expected.items() for kind in ("max", "mean")},
        rel=1e-4,
    )


@slow_on_tensorflow
def test_training_goes_on_as_without(trained):
    results = []
    for callbacks in (False, True):
        model, x, y = connected(trained)
        model.t = 0.7
        arguments = {"callbacks": [curves.PathValidation((x, y), (x, y))]} if callbacks else {}
        model.fit(x, y, batch_size=25, epochs=3, shuffle=False, verbose=0, **arguments)
        results.append(values(model.variables + model.optimizer.variables))
    assert all(np.array_equal(a, b) for a, b in zip(*results))


@slow_on_tensorflow
def test_keras_callbacks_can_use_it(trained, tmp_path):
    model, x, y = connected(trained)
    model.optimizer.learning_rate = 0.0  # Nothing improves.
    callbacks = [
        curves.PathValidation((x, y), (x, y), points=(0, 1)),
        keras.callbacks.EarlyStopping("val_path_max_loss", mode="min"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_path_max_error", save_best_only=True, initial_value_threshold=2.0, mode="min"
        ),
    ]
    history = model.fit(x, y, epochs=5, verbose=0, callbacks=callbacks).history
    assert len(history["val_path_max_loss"]) == 2
    assert (tmp_path / "best.keras").exists()


def test_bad_arguments(trained):
    model, x, y = connected(trained)
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\]"):
        curves.PathValidation((x, y), points=(0, 2))
    with pytest.raises(ValueError, match="`points` must have at least one"):
        curves.PathValidation((x, y), points=())
    with pytest.raises(ValueError, match=r"`train` is needed: .* has BatchNormalization"):
        model.fit(x, y, verbose=0, callbacks=[curves.PathValidation((x, y))])
    with pytest.raises(ValueError, match=r"needs a curves.CurveModel"):
        network = model.network_at(0)
        network.compile("sgd", logits_loss())
        network.fit(x, y, verbose=0, callbacks=[curves.PathValidation((x, y))])


def test_a_body_that_the_first_step_builds():
    x, t = keras.Input((4,)), keras.Input(batch_shape=(), name="t")
    data = np.ones((8, 4), "float32"), np.zeros(8, int)
    free = keras.Model([x, t], curves.CurveDense(3, fix_end=False)(x, t=t))
    model = curves.CurveModel(free, seed=0)
    model.compile("sgd", logits_loss())
    history = model.fit(*data, verbose=0, callbacks=[curves.PathValidation(data)]).history
    assert np.isfinite(history["val_path_max_loss"]).all()
