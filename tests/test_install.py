"""What a new user meets first: which backend Keras takes, and the version."""

import importlib.metadata
import os
import subprocess
import sys

import keras
import pytest

import curves
import keras_fge
from keras_fge.core import backend as module


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As if Keras were not loaded, with a home of its own, and the backends that a test names."""

    def choose(*installed, config=None, chosen=None):
        monkeypatch.setattr(module, "_is_installed", lambda name: name in installed)
        if config is not None:
            (tmp_path / "keras.json").write_text(config)
        if chosen:
            monkeypatch.setenv("KERAS_BACKEND", chosen)
        module.choose_backend()
        return os.environ.get("KERAS_BACKEND")

    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return choose


def test_the_one_backend_that_is_installed_is_taken(fresh):
    assert fresh("jax") == "jax"


def test_what_keras_would_take_stays_if_it_is_installed(fresh):
    assert fresh("tensorflow", "jax") is None
    assert fresh("jax", "torch", config='{"backend": "torch"}') is None
    assert fresh("jax", config='{"backend": "openvino"}') is None


def test_the_file_that_keras_writes_by_itself_is_no_choice(fresh):
    assert fresh("torch", config='{"backend": "tensorflow"}') == "torch"


@pytest.mark.parametrize("config", ["", "[]", "{"])
def test_files_that_are_no_configuration(fresh, config):
    assert fresh("jax", config=config) == "jax"


def test_what_the_user_chose_stays(fresh):
    assert fresh("jax", chosen="torch") == "torch"


def test_several_or_none_are_an_error_that_says_what_to_write(fresh):
    with pytest.raises(
        ImportError, match=r'are jax and torch: write `import os; os.environ\["KERAS_BACKEND"\] = "jax"`'
    ):
        fresh("jax", "torch")
    with pytest.raises(ImportError, match="none is installed: pip install tensorflow, or jax, or torch"):
        fresh()


def test_keras_that_is_loaded_is_left_alone(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", keras)
    assert fresh() is None


@pytest.mark.parametrize("package", ["curves", "keras_fge"])
def test_the_choice_comes_before_keras_is_loaded(package):
    code = f"""
import sys
import importlib.abc
class First(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "keras":
            print("keras_fge.core.backend" in str(list(sys.modules)))
            raise SystemExit
sys.meta_path.insert(0, First())
import {package}

pytestmark = pytest.mark.once
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr


def test_versions():
    assert curves.__version__ == keras_fge.__version__ == importlib.metadata.version("keras-fge")
