"""Every public class and function has type hints and an example, and the example runs."""

import ast
import functools
import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import curves
import keras_fge
from conftest import slow_but_on_torch, to_numpy

PUBLIC = [(module, name) for module in (curves, keras_fge) for name in module.__all__]


def example_of(thing):
    """The indented lines below "Example:" of a docstring."""
    lines = inspect.getdoc(thing).splitlines()
    if "Example:" not in lines:
        return None
    rest = lines[lines.index("Example:") + 1 :]
    end = next((index for index, line in enumerate(rest) if line and not line.startswith(" ")), len(rest))
    return textwrap.dedent("\n".join(rest[:end]))


@functools.cache
def names():
    """What an example may use: networks, data, and the packages."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")

    def network():
        layers = [keras.Input((64,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
        network = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
        network.compile(
            keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return network

    networks = {"net_a": network(), "net_b": network(), "model": network(), "network": network()}
    data = {"x": x[:128], "y": y[:128], "x_test": x[128:192], "y_test": y[128:192]}
    data |= {"x_val": x[192:256], "y_val": y[192:256]}
    return {"curves": curves, "keras": keras, "keras_fge": keras_fge, "np": np, **networks, **data}


def run(code):
    """Runs it, and compares each expression with the literal in the comment behind it, if there is one."""
    namespace = dict(names())
    exec(compile(code, "example", "exec"), namespace)
    compared = 0
    for line in code.splitlines():
        expression, _, comment = line.partition("  # ")
        try:
            expected = ast.literal_eval(comment)
        except (SyntaxError, ValueError):
            continue
        if "..." in comment:
            continue
        value = eval(expression, namespace)
        value = value if isinstance(value, (tuple, dict, float)) else to_numpy(value)
        assert value == pytest.approx(expected, abs=1e-3)
        compared += 1
    return compared


@slow_but_on_torch
@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_example_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = example_of(getattr(module, name))
    assert example, f"{module.__name__}.{name} has no example."
    run(example)


@slow_but_on_torch
def test_examples_of_methods_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(example_of(keras_fge.FGE.batches))


def test_values_behind_examples_are_compared():
    assert run(example_of(curves.Bezier)) == run(example_of(keras_fge.triangular)) == 1
    assert run(example_of(keras_fge.regression_metrics)) == 1
    with pytest.raises(AssertionError):
        run("np.ones(2)  # [1.0, 2.0]")


def functions_of(thing):
    """The public functions and methods of a class, or the function itself, as far as this project defines them."""
    if inspect.isfunction(thing):
        return [thing]
    members = [getattr(value, "__func__", getattr(value, "fget", value)) for value in vars(thing).values()]
    members = [member for member in members if inspect.isfunction(member)]
    return [member for member in members if not member.__name__.startswith("_") or member.__name__ == "__init__"]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_public_signatures_have_types(module, name):
    thing = getattr(module, name)
    ours = [base for base in getattr(thing, "__mro__", [thing]) if re.match("(curves|keras_fge)[.]", base.__module__)]
    for function in {f for base in ours if not base.__name__.startswith("_") for f in functions_of(base)}:
        if re.match(r"on_(train|epoch)|compute_(loss|mask)", function.__name__):
            continue  # Keras' hooks, whose signatures are Keras'.
        if "<string>" in function.__code__.co_filename:
            continue  # Of a dataclass.
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
        missing = [p.name for p in parameters if p.annotation is p.empty]
        assert not missing, f"{function.__qualname__}: {missing}"
        if function.__name__ != "__init__":
            assert inspect.signature(function).return_annotation is not inspect.Signature.empty, function.__qualname__
