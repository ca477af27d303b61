"""`Evaluation`: the values of `evaluate` and the predictions of `predict` in one pass, and the model is left alone."""

import keras
import numpy as np
import pytest

import curves
from conftest import slow_but_on_torch
from curves.measuring.evaluation import Evaluation


def two_outputs():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, activation="relu", activity_regularizer="l2", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, [keras.layers.Dense(2, name="a")(hidden), keras.layers.Dense(1, name="b")(hidden)])


@pytest.mark.parametrize("eagerly", [False, pytest.param(True, marks=slow_but_on_torch)])
@pytest.mark.parametrize(
    ("weighted", "was_used"),
    [
        (True, False),
        *(pytest.param(*case, marks=slow_but_on_torch) for case in [(False, False), (False, True), (True, True)]),
    ],
)
def test_values_are_those_of_evaluate_and_outputs_those_of_predict(eagerly, weighted, was_used):
    model = curves.connect(two_outputs(), two_outputs(), seed=0)
    model.compile("sgd", ["mse", "mae"], metrics=[["mae"], ["mse"]], run_eagerly=eagerly, steps_per_execution=1)
    x = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
    y = [x[:, :2], x[:, :1]]
    weights = np.arange(1, 12, dtype="float32") if weighted else None
    arguments = {"batch_size": 4, "verbose": 0, "return_dict": True}
    if was_used:
        model.evaluate(x, y, **arguments)
    evaluation = Evaluation(model)
    for t in (0.2, 0.9):  # The position is not compiled in.
        model.t = t
        values, outputs = evaluation.run(x, y, weights, 4, keeps=True)
        assert values == model.evaluate(x, y, sample_weight=weights, **arguments)
        for heard, predicted in zip(outputs, model.predict(x, batch_size=4, verbose=0), strict=True):
            np.testing.assert_array_equal(heard, predicted)
    assert evaluation.run(x, y, weights, 4, keeps=False) == (values, None)
    assert not {"test_step", "compute_metrics", "compute_loss"} & set(vars(model))


def test_one_sample_of_one_column():
    def network():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    model = curves.connect(network(), network(), seed=0)
    model.compile("sgd", "mse")
    x = np.ones((3, 3), "float32")
    _, outputs = Evaluation(model).run(x, x[:, :1], None, 1, keeps=True)
    assert outputs[0].shape == (3, 1)
