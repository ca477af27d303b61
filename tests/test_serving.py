"""`to_model()` on other runtimes: exported here, loaded in a process that cannot import this library, equal to 1e-5."""

import importlib.util
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_fge
from conftest import slow_elsewhere

BACKEND = keras.backend.backend()
rng = np.random.default_rng(0)


def cnn():
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))
    network = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    return network, rng.normal(size=(5, 8, 8, 1)).astype("float32"), True


def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8, mask_zero=True)(inputs)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)]))
    network = keras.Model(inputs, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(x)))
    return network, np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9], [1, 0, 0, 0, 0, 0]], "int32"), False


def two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(6, "tanh")(inputs)
    network = keras.Model(inputs, [layers.Dense(3, "softmax", name="kind")(x), layers.Dense(1, name="size")(x)])
    return network, rng.normal(size=(5, 4)).astype("float32"), [False, None]


def lora():
    inputs, dense = keras.Input((4,)), layers.Dense(6, "tanh")
    network = keras.Model(inputs, layers.Dense(3, "softmax")(dense(inputs)))
    dense.enable_lora(2)
    return network, rng.normal(size=(5, 4)).astype("float32"), False


NETWORKS = {make.__name__: make for make in (cnn, transformer, two_outputs, lora)}

# How each runtime loads the file `path` and computes the outputs `out` for `x`, with the module that it takes.
RUNTIMES = {
    "keras": ("keras", ".keras", "import keras; out = keras.saving.load_model(path).predict(x, verbose=0)"),
    "tf_saved_model": ("tensorflow", "", "import tensorflow as tf; m = tf.saved_model.load(path); out = m.serve(x)"),
    "litert": (
        "ai_edge_litert",
        ".tflite",
        "from ai_edge_litert.interpreter import Interpreter; m = Interpreter(path); d = m.get_input_details()[0]\n"
        "m.resize_tensor_input(d['index'], x.shape); m.allocate_tensors()\n"
        "m.set_tensor(d['index'], x.astype(d['dtype'])); m.invoke()\n"
        "out = [m.get_tensor(o['index']) for o in m.get_output_details()]",
    ),
    "onnx": (
        "onnxruntime",
        ".onnx",
        "import onnxruntime; m = onnxruntime.InferenceSession(path); i = m.get_inputs()[0]\n"
        "t = {'tensor(float)': 'float32', 'tensor(int64)': 'int64'}.get(i.type, 'int32')\n"
        "out = m.run(None, {i.name: x.astype(t)})",
    ),
    "openvino": (
        "openvino",
        ".xml",
        "import openvino; m = openvino.Core().compile_model(path, 'CPU'); r = m(x); out = [r[o] for o in m.outputs]",
    ),
}
# What Keras 3.15 does not export on a backend; docs/serving.md has the same table.
MISSING = {
    "jax": {"litert": NETWORKS, "onnx": NETWORKS, "openvino": NETWORKS},
    "torch": {"tf_saved_model": NETWORKS, "litert": NETWORKS, "onnx": ["transformer"]},
    "tensorflow": {},
}

CHILD = """
import sys
sys.modules["keras_fge"] = sys.modules["curves"] = None  # An import of these would be an error.
import numpy as np
path, arrays = sys.argv[1:]
x = np.load(arrays)["x"]
{code}
out = out if isinstance(out, (list, tuple)) else list(out.values()) if isinstance(out, dict) else [out]
np.savez(arrays + ".out.npz", *[np.asarray(o) for o in out])
"""


def ensemble_of(name):
    network, x, from_logits = NETWORKS[name]()
    members = []
    for _ in range(3):
        noise = [0.2 * rng.normal(size=w.shape) if w.dtype.kind == "f" else 0 for w in network.get_weights()]
        members.append([(w + n).astype(w.dtype) for w, n in zip(network.get_weights(), noise)])
        if name == "cnn":  # Variances are positive.
            members[-1] = [np.abs(w) for w in members[-1]]
    return keras_fge.Ensemble(network, members, from_logits), x


SOME_NETWORKS = [name if name == "cnn" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


@pytest.mark.parametrize("name", SOME_NETWORKS)
@pytest.mark.parametrize(
    "runtime", [pytest.param(name, marks=slow_elsewhere if name == "keras" else []) for name in RUNTIMES]
)
def test_other_runtimes_predict_the_same(runtime, name, tmp_path):
    module, ending, code = RUNTIMES[runtime]
    if name in MISSING[BACKEND].get(runtime, ()):
        pytest.skip(f"Keras does not export this to {runtime} on {BACKEND}.")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: `make test-companions` runs this.")
    ensemble, x = ensemble_of(name)
    path, arrays = tmp_path / f"model{ending}", tmp_path / "arrays.npz"
    if runtime == "keras":
        ensemble.to_model().save(path)
    else:
        ensemble.to_model().export(str(path), format=runtime, verbose=False)
    np.savez(arrays, x=x)
    program = tmp_path / "program.py"
    program.write_text(CHILD.format(code=code))
    child = subprocess.run([sys.executable, program, path, arrays], capture_output=True, text=True, cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    with np.load(f"{arrays}.out.npz") as file:
        outputs = list(file.values())
    expected = keras.tree.flatten(ensemble.predict(x))
    assert len(outputs) == len(expected) or (runtime, name, BACKEND) == ("openvino", "transformer", "tensorflow")
    for array in expected:  # Some runtimes return outputs in an order of their own, or, there, constants beside them.
        assert min(np.max(np.abs(array - out)) for out in outputs if out.shape == array.shape) < 1e-5


def test_the_table_in_the_docs_is_this_one():
    text = (pathlib.Path(__file__).parent.parent / "docs/serving.md").read_text()
    for backend, missing in MISSING.items():
        row = next(line for line in text.splitlines() if line.lower().startswith(f"| {backend}"))
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        for cell, runtime in zip(cells, RUNTIMES, strict=True):
            left_out = missing.get(runtime, ())
            assert cell.startswith("no" if len(left_out) == len(NETWORKS) else "yes"), (backend, runtime)
            assert ("transformer" in cell) == (0 < len(left_out) < len(NETWORKS))


def test_model_card(tmp_path):
    ensemble, _ = ensemble_of("cnn")
    ensemble.snapshots[0].step, ensemble.snapshots[0].learning_rate = 30, 0.0005
    ensemble.snapshots[0].metrics = {"member_error": 0.0625}
    ensemble.save(tmp_path / "a", about="Trained on **digits**, FGE(0.05).")
    card = (tmp_path / "a/README.md").read_text()
    assert card.startswith("---\nlibrary_name: keras\n")
    for part in (
        "Ensemble of 3 members",
        "Trained on **digits**",
        "Ensemble.load(",
        f"- keras {keras.__version__}",
        BACKEND,
    ):
        assert part in card
    assert "| 1 | 30 | 0.0005 | 0.0625 |" in card and "| 2 |  |  |  |" in card
    assert len(keras_fge.Ensemble.load(tmp_path / "a")) == 3
    (tmp_path / "b").mkdir()
    (tmp_path / "b/README.md").write_text("mine")
    ensemble.save(tmp_path / "b")
    assert (tmp_path / "b/README.md").read_text() == "mine"
