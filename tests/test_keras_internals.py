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
        (keras_internals.begin_with_epoch, (3, None), "_initial_epoch"),
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


class Begin(keras.callbacks.Callback):
    """Lets `fit` begin with epoch 2."""

    def on_train_begin(self, logs=None):
        self.fit = keras_internals.fit_around(self)
        keras_internals.begin_with_epoch(self.model, 2, self.fit)


class Refuse(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise ValueError("refused")


def small_model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, np.ones((2, 1))


def test_one_fit_begins_with_the_epoch_it_is_told():
    model, x = small_model()
    assert model.fit(x, x, epochs=4, verbose=0, callbacks=[Begin()]).epoch == [2, 3]
    assert model.fit(x, x, epochs=1, verbose=0).epoch == [0]
    assert model.fit(x, x, initial_epoch=1, epochs=3, verbose=0).epoch == [1, 2]
    with pytest.raises(ValueError, match="refused") as kept:  # Its traceback keeps all that was in that `fit`.
        model.fit(x, x, epochs=4, verbose=0, callbacks=[Begin(), Refuse()])
    assert model.fit(x, x, epochs=1, verbose=0).epoch == [0] and kept.tb is not None


def test_what_a_callback_sees_of_its_fit():
    model, x = small_model()
    begin, other = Begin(), keras.callbacks.Callback()
    model.fit(x, x, epochs=3, verbose=0, callbacks=[other, begin], validation_data=(x, x), validation_steps=1)
    assert begin.fit.data is x and begin.fit.validation_data[0] is x and begin.fit.validation_steps == 1
    assert begin.fit.before == [other] and begin.fit.after == [model.history]
    assert begin.fit.callbacks() is None  # Its end can be seen.
    assert keras_internals.fit_around(begin) is None


def test_a_train_function_of_its_own_leaves_the_present_one_in_place():
    model, x = small_model()
    model.fit(x, x, verbose=0)
    present = keras_internals.train_function(model)
    other = keras_internals.new_train_function(model)
    assert other is not present and keras_internals.train_function(model) is present
    assert keras_internals.optimizer_calls(model.optimizer) == 1
    with keras_internals.learning_rate_replaced(model.optimizer, 5.0):
        assert model.optimizer.learning_rate == 5.0
    assert float(to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)
