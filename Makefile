# Each target does all the set-up it needs, in a virtual environment of its own per backend, and reuses it.
#
#   make demo        the main job on real data: curves and FGE on scikit-learn's digits, about 5 minutes on 2 cores
#   make test        lint and tests on TensorFlow      make test-jax, make test-torch    the same tests there
#   make test-oldest the tests on the oldest Keras and TensorFlow that setup.cfg allows
#   make test-slow   on all three backends, the tests that the others leave out because they take long

PYTHON ?= python3
# A range would pull several GB of CUDA packages for a test on the CPU.
TORCH = torch==2.13.0
OLDEST = keras==3.12.0 tensorflow==2.18.0 "numpy==2.0.*"

.PHONY: demo test test-jax test-torch test-oldest test-slow lint format clean

demo: .venv/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python benchmarks/cifar.py

test: lint
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest

test-jax: .venv-jax/ready
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest

test-torch: .venv-torch/ready
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest

test-oldest: .venv-oldest/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv-oldest/bin/python -m pytest

test-slow: .venv/ready .venv-jax/ready .venv-torch/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest -m slow
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest -m slow
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest -m slow

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/ready: PACKAGES = -e ".[tensorflow,tfds,benchmarks,dev]"
.venv-jax/ready: PACKAGES = -e ".[jax,benchmarks,dev]"
.venv-oldest/ready: PACKAGES = $(OLDEST) -e ".[tensorflow,benchmarks,dev]"
.venv-torch/ready: PACKAGES = "$(TORCH)" -e ".[torch,benchmarks,dev]"

%/ready: setup.cfg pyproject.toml Makefile
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

clean:
	rm -rf .venv .venv-jax .venv-torch .venv-oldest
