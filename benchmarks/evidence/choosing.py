"""Measures FGE against its largest learning rate, the length of its cycles and its first epoch, with SGD and AdamW.

    cd benchmarks && python -m evidence.choosing --output=choosing.json

A small CNN on the subset of Fashion-MNIST here, B = 40 epochs. All runs of a seed and an optimizer
branch off one ordinary training, with the paper's learning rate. Measured on the validation images. The record is
written after each run, and the same command goes on; then it draws choosing.png beside it. docs/choosing.md has it.
"""

import os
import pathlib
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from absl import app, flags

import keras_fge
from inputs import data
from inputs.networks import make_network
from study.look import new_figure, save, styled
from study.progress import console
from study.records import opened_record, write_json

FLAGS = flags.FLAGS
EPOCHS, START, BATCH_SIZE = 40, 28, 64
CYCLES = (1, 2, 4, 6)  # Epochs. All but 1 divide the epochs that are left.
OPTIMIZERS = {  # Its rate in ordinary training, its weight decay, the largest rates of FGE to try.
    "SGD": (0.05, {"momentum": 0.9}, (0.005, 0.015, 0.05, 0.15)),
    "AdamW": (0.001, {"weight_decay": 0.004}, (0.0003, 0.001, 0.003, 0.01)),
}
STARTS = (12, 20, 28, 34)  # Tried with the rate of ordinary training, and cycles of 2 epochs.
SMALLEST = 0.01  # The smallest rate of FGE, as a share of the largest.


def settings_to_try(name):
    """(first epoch, largest rate, cycle) of each run with one optimizer."""
    rate, _, rates = OPTIMIZERS[name]
    grid = [(START, largest, cycle) for largest in rates for cycle in CYCLES]
    return list(dict.fromkeys([*grid, *((start, rate, 2) for start in STARTS)]))


def new_network(name, images, seed):
    rate, options, _ = OPTIMIZERS[name]
    keras.utils.set_random_seed(seed)
    decay = 3e-4 if name == "SGD" else 0.0  # AdamW has its own.
    network = make_network("small_cnn", images.train[0].shape[1:], 10, decay, "none", images.largest_pixel, width=16)
    optimizer = getattr(keras.optimizers, name)(rate, **options)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return network


def train(network, name, images, seed, first_epoch, until, callbacks=()):
    """Ordinary training, from `first_epoch` to the one before `until`."""
    paper = keras_fge.PaperTraining(OPTIMIZERS[name][0], EPOCHS)
    batches = keras_fge.Batches(*images.train, BATCH_SIZE, seed)
    network.fit(batches, initial_epoch=first_epoch, epochs=until, verbose=0, callbacks=[paper, *callbacks])


def measured(ensemble, x, y):
    metrics = ensemble.evaluate(x, y, batch_size=1000, calibrate=True)
    disagreement = ensemble.disagreement(x, batch_size=1000)
    pairs = disagreement[np.triu_indices(len(ensemble), 1)]
    members = [ensemble[k : k + 1].evaluate(x, y, batch_size=1000)["error"] for k in range(len(ensemble))]
    more = {"members": len(ensemble), "member_error": float(np.mean(members))}
    return {**metrics, **more, "disagreement": float(pairs.mean()) if len(pairs) else 0.0}


def run_all(name, images, seed, record, path):
    """Does what is missing in the record for one optimizer and seed: the ordinary network, and FGE in each setting."""
    validation = images.splits["validation"]
    done = record["runs"].setdefault(f"{name} {seed}", {})
    for start in sorted({start for start, _, _ in settings_to_try(name)}):
        missing = [s for s in settings_to_try(name) if s[0] == start and str(s) not in done]
        if not missing:
            continue
        network = new_network(name, images, seed)
        train(network, name, images, seed, 0, start)
        variables = network.variables + network.optimizer.variables
        branch = [keras.ops.convert_to_numpy(variable.value).copy() for variable in variables]
        for setting in missing:
            _, largest, cycle = setting
            for variable, value in zip(variables, branch, strict=True):
                variable.assign(value)
            fge = keras_fge.FGE(largest, SMALLEST * largest, cycle_steps=2 * round(cycle * steps(images) / 2))
            batches = fge.batches(*images.train, BATCH_SIZE, seed)
            network.fit(batches, initial_epoch=start, epochs=EPOCHS, verbose=0, callbacks=[fge])
            done[str(setting)] = measured(fge.ensemble(), *validation)
            write_json(record, path)
            console.print(f"{name} {seed} {setting}: {done[str(setting)]}")
    if "ordinary" not in done:
        network = new_network(name, images, seed)
        train(network, name, images, seed, 0, EPOCHS)
        done["ordinary"] = measured(keras_fge.Ensemble(network, [network.get_weights()], True), *validation)
        write_json(record, path)


def steps(images):
    return -(-len(images.train[0]) // BATCH_SIZE)


def means(record, name, metric):
    """The mean over the seeds, by setting, and "ordinary"."""
    runs = [run for key, run in record["runs"].items() if key.split()[0] == name]
    return {setting: float(np.mean([run[setting][metric] for run in runs])) for setting in runs[0]}


@styled
def draw(record):
    """For each optimizer: calibrated NLL, error of a member, disagreement over largest rate and cycle."""
    figure = new_figure(6.6)
    panels = figure.subplots(len(OPTIMIZERS), 4)
    quantities = (
        ("nll", "NLL of the ensemble", 1),
        ("calibrated_nll", "the same, calibrated", 1),
        ("member_error", "error of a member (%)", 100),
        ("disagreement", "they differ in (%)", 100),
    )
    for row, (name, (_, _, rates)) in zip(panels, OPTIMIZERS.items()):
        for axes, (metric, label, scale) in zip(row, quantities):
            values = means(record, name, metric)
            grid = np.array([[scale * values[str((START, rate, cycle))] for cycle in CYCLES] for rate in rates])
            image = axes.imshow(grid, cmap="viridis" if metric == "disagreement" else "viridis_r", aspect="auto")
            middle = image.norm.vmin + (image.norm.vmax - image.norm.vmin) / 2
            for i, j in np.ndindex(grid.shape):
                is_dark = (grid[i, j] < middle) == (metric == "disagreement")
                text = f"{grid[i, j]:.3f}" if scale == 1 else f"{grid[i, j]:.1f}"
                axes.text(j, i, text, ha="center", va="center", color="white" if is_dark else "black", fontsize=9)
            axes.set(xticks=range(len(CYCLES)), xticklabels=CYCLES, yticks=range(len(rates)), yticklabels=rates)
            one = (
                ""
                if metric == "disagreement"
                else f"\n(one network: {scale * values['ordinary']:.{3 if scale == 1 else 1}f})"
            )
            axes.set(title=f"{name}: {label}{one}", xlabel="cycle (epochs)", ylabel="largest learning rate")
            axes.title.set_fontsize(10)
    return figure


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=FLAGS.seed, runs=FLAGS.runs)
    path = pathlib.Path(FLAGS.output)
    images = data.load("fashion_subset", None, None, None, None, False)
    record = opened_record(path, settings, runs={})
    for name in OPTIMIZERS:
        for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.runs):
            run_all(name, images, seed, record, path)
    save(draw(record), path.with_suffix(".png"))
    console.print(f"Written: {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/choosing.json", "Record to write.")
    flags.DEFINE_integer("seed", 0, "Seed of the first run; the next ones follow.")
    flags.DEFINE_integer("runs", 3, "Runs of each setting.", lower_bound=1)
    app.run(main)
