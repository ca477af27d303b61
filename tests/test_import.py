"""Importing the library loads Keras, numpy and one backend, and nothing else that is heavy."""

import pathlib
import subprocess
import sys

import keras

ROOT = pathlib.Path(__file__).parent.parent


def test_import_needs_only_keras_numpy_and_one_backend():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    code = "import sys, keras; before = set(sys.modules); import curves, keras_fge; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    loaded = {module.split(".")[0] for module in result.stdout.split()}
    assert not loaded & {*others, "matplotlib", "plotly", "pandas", "tensorflow_datasets", "absl", "sklearn", "rich"}
    assert {"curves", "keras_fge"} <= loaded
