"""What Keras does not promise: if it goes, that is an error, not silence."""

import types

import keras
import numpy as np
import pytest

from conftest import to_numpy
from keras_fge.core import keras_internals


class Bare:
    """A model or optimizer of a Keras that has renamed everything."""


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (keras_internals.all_layers, (), "_flatten_layers"),
        (keras_internals.layers_inside, (), "_flatten_layers"),
        (keras_internals.begin_with_epoch, (3,), "_initial_epoch"),
        (keras_internals.optimizer_calls, (), "_iterations"),
        (keras_internals.train_function, (), "train_function"),
        (keras_internals.set_train_function, (None,), "train_function"),
        (keras_internals.new_train_function, (), "train_function"),
        (lambda optimizer: keras_internals.learning_rate_replaced(optimizer, None).__enter__(), (), "_learning_rate"),
    ],
)
def test_a_name_that_is_missing_is_an_error(function, arguments, name):
    bare = Bare()
    with pytest.raises(RuntimeError, match=rf"has no `Bare.{name}`.* tested with Keras 3.12.0 to 3.15.1: install one"):
        function(bare, *arguments)
    assert not vars(bare)  # In particular, nothing is set that nobody reads.


def test_optimizers_with_one_learning_rate():
    assert keras_internals.has_one_learning_rate(keras.optimizers.SGD())
    several = types.SimpleNamespace(_learning_rate=0.1, optimizers=[])
    assert not keras_internals.has_one_learning_rate(several) and not keras_internals.has_one_learning_rate(Bare())


def test_one_fit_begins_with_the_epoch_it_is_told():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((2, 1))
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: keras_internals.begin_with_epoch(model, 2))
    assert model.fit(x, x, epochs=4, verbose=0, callbacks=[begin]).epoch == [2, 3]
    assert model.fit(x, x, epochs=1, verbose=0).epoch == [0]
    assert model.fit(x, x, initial_epoch=1, epochs=3, verbose=0).epoch == [1, 2]


def test_a_train_function_of_its_own_leaves_the_present_one_in_place():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.ones((2, 1))
    model.fit(x, x, verbose=0)
    present = keras_internals.train_function(model)
    other = keras_internals.new_train_function(model)
    assert other is not present and keras_internals.train_function(model) is present
    assert keras_internals.optimizer_calls(model.optimizer) == 1
    with keras_internals.learning_rate_replaced(model.optimizer, 5.0):
        assert model.optimizer.learning_rate == 5.0
    assert float(to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)


class OwnTestStep(keras.Model):
    """A model whose test step computes its own logs."""

    def test_step(self, *args):
        if keras.backend.backend() != "jax":
            return {"own": self.compute_loss(y=args[0][1], y_pred=self(args[0][0], training=False))}
        (trainable, non_trainable, metrics), (x, y, *_) = args
        outputs, non_trainable = self.stateless_call(trainable, non_trainable, x, training=False)
        return {"own": self.compute_loss(y=y, y_pred=outputs)}, (trainable, non_trainable, metrics)


@pytest.mark.parametrize("eagerly", [False, True])
def test_predictions_heard_in_evaluate_are_those_of_predict(eagerly):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, activation="relu", activity_regularizer="l2")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name="a")(hidden), keras.layers.Dense(1, name="b")(hidden)])
    model.compile("sgd", ["mse", "mae"], metrics=[["mae"], ["mse"]], run_eagerly=eagerly)
    x = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
    y = [x[:, :2], x[:, :1]]
    before = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    own = model.test_function
    evaluation = keras_internals.EvaluationWithPredictions(model)
    for scale in (1.0, 2.0):  # The weights are not compiled in.
        model.set_weights([scale * w for w in model.get_weights()])
        values = evaluation(x, y, batch_size=4, verbose=0, return_dict=True)
        for heard, predicted in zip(evaluation.predictions, model.predict(x, batch_size=4, verbose=0), strict=True):
            np.testing.assert_array_equal(heard, predicted)
        assert values == model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    assert evaluation(x, y, batch_size=4, verbose=0, return_dict=True, keeps=False) == values
    assert evaluation.predictions is None
    assert values != before and model.test_function is own
    assert not {"test_step", "compute_metrics"} & set(vars(model))


def test_predictions_that_cannot_be_heard():
    x = np.ones((6, 2), "float32")
    model = OwnTestStep(*2 * [keras.Input((2,))])
    model.compile(loss="mse")
    evaluation = keras_internals.EvaluationWithPredictions(model)
    assert evaluation(x, x + 1, batch_size=4, verbose=0, return_dict=True) == {"own": 1.0}
    assert evaluation.predictions is None
    if keras.backend.backend() == "torch":
        return  # It has no `steps_per_execution`.
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse", steps_per_execution=2)
    evaluation = keras_internals.EvaluationWithPredictions(model)
    assert evaluation(x, x[:, :1], batch_size=2, verbose=0) == model.evaluate(x, x[:, :1], batch_size=2, verbose=0)
    assert evaluation.predictions is None
