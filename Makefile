# Each target does all the set-up it needs, in a virtual environment of its own per backend, and reuses it.
#
#   make demo        the main job on real data, in three minutes: a curve, and FGE, on a part of Fashion-MNIST
#   make study       the same in full: curves, planes and all methods, in half an hour
#   make test        lint and tests on TensorFlow      make test-jax, make test-torch    the same tests there
#   make test-oldest the tests on the oldest Keras and TensorFlow that setup.cfg allows
#   make test-nightly the tests on the nightly build of the next Keras, with JAX; make test-nightly-tensorflow, -torch
#   make test-companions what people use beside it: tuners, trackers, and the runtimes that an ensemble is exported to
#   make test-install the README's examples with the built wheel, in a fresh environment for each backend
#   make docs        the documentation as a site, in build/site; make package: wheel and sdist, checked, in build/dist
#   make test-slow   on all three backends, the tests that the others leave out because they take long

PYTHON ?= python3
# A range would pull several GB of CUDA packages for a test on the CPU.
TORCH = torch==2.13.0
# Where there is one, the build without CUDA is a third of the size.
TENSORFLOW = $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),tensorflow-cpu,tensorflow)
OLDEST = keras==3.12.0 tensorflow==2.18.0 "numpy==2.0.*"

.PHONY: demo study test test-jax test-torch test-oldest test-nightly test-slow test-companions test-install docs package lint format clean

demo: .venv-demo/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv-demo/bin/python benchmarks/cifar.py --preset=demo

study: .venv-demo/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv-demo/bin/python benchmarks/cifar.py

test: lint
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest

test-jax: .venv-jax/ready
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest

test-torch: .venv-torch/ready
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest

test-oldest: .venv-oldest/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv-oldest/bin/python -m pytest

test-nightly: test-nightly-jax

test-nightly-%: .venv-nightly-%/ready
	KERAS_BACKEND=$* TF_CPP_MIN_LOG_LEVEL=3 .venv-nightly-$*/bin/python -m pytest

test-companions: .venv-companions/ready
	for backend in tensorflow jax torch; do \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 \
		.venv-companions/bin/python -m pytest -m '' tests/test_companions.py tests/test_serving.py || exit 1; \
	done

test-slow: .venv/ready .venv-jax/ready .venv-torch/ready
	KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest -m slow
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest -m slow
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest -m slow

# The wheel, in fresh environments with one backend each, installed as the README says, with the README's examples.
test-install: $(foreach backend,tensorflow jax torch,build/$(backend)/passed)

build/%/passed: .venv/ready README.md $(wildcard curves/*.py curves/*/*.py keras_fge/*.py keras_fge/*/*.py) setup.cfg
	rm -rf build/$* build/lib  # In the latter, setuptools would find modules that are gone.
	.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/$* .
	$(PYTHON) -m venv build/$*/venv
	build/$*/venv/bin/python -m pip install --quiet $(if $(filter torch,$*),"$(TORCH)") "$$(echo build/$*/*.whl)[$*,examples]"
	env -u KERAS_BACKEND KERAS_HOME=$(CURDIR)/build/$* TF_CPP_MIN_LOG_LEVEL=3 build/$*/venv/bin/python tests/readme_examples.py README.md
	touch $@

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --site-dir build/site

package: .venv/ready
	rm -rf build/dist build/lib
	.venv/bin/python -m build --outdir build/dist .
	.venv/bin/python -m twine check --strict build/dist/*

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/ready: PACKAGES = -e ".[tensorflow,tfds,hub,benchmarks,ray,docs,dev]"
# What it uses and nothing more. All modules of TensorFlow would take longer to compile than those that are loaded.
.venv-demo/ready: PACKAGES = --no-compile $(TENSORFLOW) -e ".[benchmarks]"
.venv-jax/ready: PACKAGES = -e ".[jax,benchmarks,dev]"
.venv-companions/ready: PACKAGES = "$(TORCH)" -e ".[tensorflow,jax,benchmarks,dev,companions,serving]"
.venv-oldest/ready: PACKAGES = $(OLDEST) -e ".[tensorflow,benchmarks,dev]"
.venv-torch/ready: PACKAGES = "$(TORCH)" -e ".[torch,benchmarks,dev]"
.venv-nightly-jax/ready: PACKAGES = -e ".[jax,benchmarks,dev]"
.venv-nightly-tensorflow/ready: PACKAGES = -e ".[tensorflow,benchmarks,dev]"
.venv-nightly-torch/ready: PACKAGES = "$(TORCH)" -e ".[torch,benchmarks,dev]"

%/ready: setup.cfg pyproject.toml Makefile
	@echo "Installing into $*: a minute or two"
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet $(PACKAGES)
	$(if $(findstring nightly,$*),$*/bin/python -m pip uninstall --quiet --yes keras)
	$(if $(findstring nightly,$*),$*/bin/python -m pip install --quiet --pre --force-reinstall --no-deps keras-nightly)
	touch $@

clean:
	rm -rf .venv .venv-demo .venv-jax .venv-torch .venv-oldest .venv-companions .venv-nightly-* build
