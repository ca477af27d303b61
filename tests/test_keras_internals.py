"""What Keras does not promise: if it goes, that is an error, not silence."""

import ast
import pathlib
import warnings

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import to_numpy
from keras_fge.core import keras_internals

ROOT = pathlib.Path(__file__).parent.parent


class Bare:
    """A model or optimizer of a Keras that has renamed everything."""


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (keras_internals.all_layers, (), "_flatten_layers"),
        (keras_internals.begin_with_epoch, (3, None), "_initial_epoch"),
        (lambda owner: keras_internals.has(owner, "enable_lora", Bare), (), "enable_lora"),
        (keras_internals.optimizer_calls, (), "_iterations"),
        (keras_internals.train_function, (), "train_function"),
        (keras_internals.set_train_function, (None,), "train_function"),
        (keras_internals.new_train_function, (), "train_function"),
        (lambda optimizer: keras_internals.learning_rate_replaced(optimizer, None).__enter__(), (), "_learning_rate"),
    ],
)
def test_a_name_that_is_missing_is_an_error(function, arguments, name):
    bare = Bare()
    with pytest.raises(RuntimeError, match=rf"has no `Bare.{name}`.* tested with Keras 3.12.0, .*: install one"):
        function(bare, *arguments)
    assert not vars(bare)  # In particular, nothing is set that nobody reads.


def test_optimizers_with_one_learning_rate():
    assert keras_internals.has_one_learning_rate(keras.optimizers.SGD())
    assert not keras_internals.has_one_learning_rate(Bare())


def test_what_only_some_layers_have():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    assert not keras_internals.has_lora(dense) and not keras_internals.has_lora(keras.layers.ReLU())
    dense.enable_lora(1)
    assert keras_internals.has_lora(dense)
    i = keras.Input((3,))
    graphs = [keras.Model(i, dense(i)), keras.Sequential([i, keras.layers.Dense(1)])]
    assert all(map(keras_internals.has_graph, graphs))
    assert not any(map(keras_internals.has_graph, (keras.Sequential([keras.layers.Dense(1)]), keras.Model(), dense)))


@pytest.mark.parametrize(("version", "warns"), [("3.16.4", False), ("3.17.0", True), ("4.0.0.dev2027", True)])
def test_a_newer_keras_warns_once(monkeypatch, recwarn, version, warns):
    monkeypatch.setattr(keras, "__version__", version)
    warn = keras_internals.warn_of_newer_keras.__wrapped__
    warn()
    assert [f"Keras {version} is newer than those" in str(w.message) for w in recwarn] == [True] * warns


@pytest.mark.parametrize("kind", ["callback", "curve"])
def test_the_first_fit_warns_of_a_newer_keras(monkeypatch, kind):
    model, x = small_model()
    monkeypatch.setattr(keras_internals, "NEWEST_TESTED", (3, 0))
    keras_internals.warn_of_newer_keras.cache_clear()
    callbacks = [keras_fge.FGE(0.1, 0.01, cycle_epochs=2)] if kind == "callback" else []
    if kind == "curve":
        model = curves.connect(model, keras.models.clone_model(model), seed=0)
        model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="is newer than those that this version of keras-fge was tested with"):
        model.fit(x, x, epochs=2, verbose=0, callbacks=callbacks)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Keras .* is newer")
        model.fit(x, x, epochs=2, verbose=0)


def test_nothing_that_is_absent_from_keras_is_an_answer():
    """`getattr` with a default, and `hasattr`, only of what others have: Python, tf.data, users' own classes, ours."""
    names = {
        "__name__",
        "__self__",
        "__next__",
        "O_NOFOLLOW",
        "O_BINARY",
        "cardinality",
        "kernel",  # Of a shell of IPython.
        "epoch_for",
        "shape",
        "t",
        "tocsr",
        "__array__",
    }
    # Of users' own losses and callbacks; what a loss of Keras takes is in its configuration too. Alignment is checked
    # by numbers at its end.
    names |= {"from_logits", "monitor", "data_format"}
    for file in sorted(path for half in ("curves", "keras_fge") for path in (ROOT / half).rglob("*.py")):
        if file.name == "keras_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)):
                name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
                is_fine = name is not None and (name in names or name.startswith("_keras_fge_"))
                assert is_fine, f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


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
