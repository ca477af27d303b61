"""Ensembles at equal budgets: independent networks, Snapshot Ensembles, FGE, and the averaged weights of FGE.

An experiment is a list of units, whose functions make, train and measure; the values that they return are recorded.
Nothing is chosen here: all snapshots are members, and settings are given. Test data are only used to measure.
"""

import itertools
import os

import numpy as np

import keras_fge
from keras_fge.core.batch_norm import batch_norm_layers
from keras_fge.core.files import read_npz, to_npz, write_atomically
from keras_fge.core.networks import to_array
from keras_fge.core.predictions import RunningMean
from keras_fge.core.temperature import LEAST, best_temperature, logits_of, with_temperature
from study.presets import BUDGETS
from study.training import SecondsPerEpoch, TrajectoryRecorder, new_network, train_cyclic, train_start, trained_network
from study.units import Unit

IND_BUDGETS = range(1, 9)  # How many independent networks is a method worth? That takes larger ensembles of them.


# --- The experiments --------------------------------------------------------------------------------------------------


def ind(study):
    """Independent networks, the ordinary way to an ensemble."""
    return _runs_and_groups(study, "ind", run_ind, IND_BUDGETS)


def sse(study):
    """Snapshot Ensembles: a whole run in a few cosine cycles."""
    return _runs_and_groups(study, "sse", run_sse)


def fge(study):
    """Fast Geometric Ensembling, which branches off the training of the independent network of the same seed.

    That saves time here; an FGE run counts as a whole run in all comparisons. Networks with BatchNormalization are
    measured twice: with the statistics that each member has from its training, as in the paper, and re-estimated.
    """
    units = _runs_and_groups(study, "fge", run_fge)
    if batch_norm_layers(new_network(study.settings, study.data, study.settings.seed)):
        units += _runs_and_groups(study, "fge_bn", run_fge_bn, after=("fge", run_fge))
    return units


def swa(study):
    """Stochastic Weight Averaging: the mean of the weights of the members of FGE, in one network."""
    runs = [Unit("swa", (seed,), run_swa, needs=(Unit("fge", (seed,), run_fge),)) for seed in study.seeds]
    return [*fge(study), *runs]


def paired(study):
    """FGE beside one network with a temperature, test image by test image, on all runs."""
    runs = [Unit(method, (seed,), run) for seed in study.seeds for method, run in (("ind", run_ind), ("fge", run_fge))]
    key = ("fge", *study.seeds)
    return [*runs, Unit("paired", key, measure_paired, needs=tuple(runs))]


def _runs_and_groups(study, method, run, budgets=BUDGETS, after=None):
    """One unit for each run, and one for each group of k runs whose members make an ensemble of budget kB.

    `after` is the method, and its function, whose run of the same seed is needed before.
    """

    def measure(study, budget, *seeds):
        return measure_group(study, method, run, seeds)

    needs = {seed: (Unit(after[0], (seed,), after[1]),) if after else () for seed in study.seeds}
    runs = [Unit(method, (seed,), run, needs[seed]) for seed in study.seeds]
    units = list(runs)
    for budget in budgets:
        for first in range(0, len(runs) - budget + 1, budget):
            group = tuple(runs[first : first + budget])
            key = (budget, *(seed for unit in group for seed in unit.key))
            units.append(Unit(f"{method} ensemble", key, measure, needs=group))
    return units


# --- One run of each method -------------------------------------------------------------------------------------------


def run_ind(study, seed):
    clock = SecondsPerEpoch()
    network = trained_network(study, seed, [clock])
    snapshot = keras_fge.Snapshot.of(network, study.settings.epochs * study.steps)
    metrics = measure_run(study, "ind", seed, network, [snapshot])
    x, y = study.data.train
    ensemble = keras_fge.Ensemble(network, [snapshot], from_logits=True)
    metrics["train"] = keras_fge.classification_metrics(ensemble.predict(x, batch_size=1000), y)
    return {**metrics, "seconds_per_epoch": clock.median}


def run_sse(study, seed):
    settings = study.settings
    network = new_network(settings, study.data, seed)
    sse = keras_fge.SnapshotEnsemble(
        settings.sse_max_learning_rate,
        cycle_steps=study.sse_cycle_steps,
        directory=study.checkpoint("sse", seed),
        resume=True,
    )
    clock = SecondsPerEpoch()
    with study.locked(f"run sse {seed}"), study.progress.task(f"sse {seed}", settings.epochs) as ticker:
        train_cyclic(network, sse, settings, study.data, seed, [clock, ticker])
    metrics = measure_run(study, "sse", seed, network, sse.snapshots)
    return {**metrics, "seconds_per_epoch": clock.median}


def run_fge(study, seed):
    settings = study.settings
    start = settings.fge_start_epoch
    network = new_network(settings, study.data, seed)
    with study.progress.task(f"network {seed} to epoch {start}", start) as ticker:
        train_start(study, network, seed, [ticker])
    fge = keras_fge.FGE(
        settings.fge_max_learning_rate,
        settings.fge_min_learning_rate,
        cycle_steps=study.fge_cycle_steps,
        start_epoch=start,
        directory=study.checkpoint("fge", seed),
        resume=True,
    )
    is_traced = settings.trace and seed == settings.seed
    recorders = [new_recorder(study, network, fge, seed)] if is_traced else []
    clock = SecondsPerEpoch()
    with study.locked(f"run fge {seed}"), study.progress.task(f"fge {seed}", settings.epochs, start) as ticker:
        train_cyclic(network, fge, settings, study.data, seed, [clock, *recorders, ticker], start)
    metrics = measure_run(study, "fge", seed, network, fge.snapshots, start)
    for recorder in recorders:
        snapshots = [snapshot.step for snapshot in fge.snapshots]
        metrics["trace"] = {**recorder.trace, "cycle_steps": fge.cycle_steps, "snapshots": snapshots}
    return {**metrics, "seconds_per_epoch": None if recorders else clock.median}


def new_recorder(study, network, fge, seed):
    """The recorder of the first FGE run, for the paper's figure of learning rate, error and distance."""
    weights = [to_array(variable) for variable in network.trainable_variables]
    path = study.path("checkpoints", f"fge_{seed}_trace.json")
    return TrajectoryRecorder(study.data.test, weights, fge.start_epoch, path, -(-fge.cycle_steps // 8))


def run_fge_bn(study, seed):
    """The members of an FGE run with re-estimated statistics of BatchNormalization."""
    ensemble = finished_fge(study, seed)
    snapshots = []
    for index, snapshot in enumerate(ensemble.snapshots):
        network = ensemble[index : index + 1].average_weights(study.data.train)  # The mean of one is that one.
        snapshots.append(keras_fge.Snapshot.of(network, snapshot.step))
    return measure_run(study, "fge_bn", seed, network, snapshots, study.settings.fge_start_epoch)


def run_swa(study, seed):
    network = finished_fge(study, seed).average_weights(study.data.train)
    snapshot = keras_fge.Snapshot.of(network, study.settings.epochs * study.steps)
    return measure_run(study, "swa", seed, network, [snapshot])


def finished_fge(study, seed):
    """The members of a recorded FGE run, which is done again if its folder is gone."""
    folder, members = study.checkpoint("fge", seed), study.records.metrics(f"fge {seed}")["members"]
    if not os.path.exists(folder) or len(keras_fge.Ensemble.load(folder)) < members:
        run_fge(study, seed)
    return keras_fge.Ensemble.load(folder)


# --- Measurements -----------------------------------------------------------------------------------------------------


def measure_run(study, method, seed, network, snapshots, first_epoch=0):
    """Measures the ensemble of one run, and its members one by one; writes the mean prediction to a file.

    The file also has the probabilities of each member on test data, "test_members".

    Returns:
        {"members": count, split: metrics of the ensemble, the mean error of its members and their disagreement,
        "epochs": epoch at which each member was collected, "member_error": error of each member, "ensemble_error":
        error of the ensemble of the first 1, 2, ... members}, both errors on test data.
    """
    ensemble = keras_fge.Ensemble(network, snapshots, from_logits=True)
    metrics, means = {"members": len(ensemble)}, {}
    for split, (x, y) in study.data.splits.items():
        probabilities, running, sizes = ensemble.predict(x, batch_size=1000, members=True), RunningMean(), []
        for member in probabilities:
            running.add(member)
            sizes.append(float(np.mean(np.argmax(running.mean(), axis=1) != y)))
        classes = np.argmax(probabilities, axis=2)
        members = [float(np.mean(of_member != y)) for of_member in classes]
        means[split] = running.mean().astype("float32")
        quality = {"member_error": float(np.mean(members)), "disagreement": disagreement(classes)}
        metrics[split] = {**all_metrics(means[split], y), **quality}
        if split == "test":
            epochs = [first_epoch + snapshot.step / study.steps for snapshot in snapshots]
            metrics.update(epochs=epochs, member_error=members, ensemble_error=sizes)
            means["test_members"] = np.asarray(probabilities, "float32")
    write_atomically(predictions_path(study, method, seed), to_npz(means))
    return metrics


def measure_group(study, method, run, seeds):
    """Measures the ensemble of the members of several runs; of two, also as the members of the second join.

    All runs have equally many members, so the mean over the members is the mean of the runs' means.
    """
    means, of_members = {split: 0 for split in study.data.splits}, []
    for seed in seeds:
        path = predictions_path(study, method, seed)
        if not os.path.exists(path):
            run(study, seed)
        predictions = read_npz(path, path)
        means = {split: mean + predictions[split].astype("float64") / len(seeds) for split, mean in means.items()}
        of_members += list(predictions["test_members"])
    members = sum(study.records.metrics(f"{method} {seed}")["members"] for seed in seeds)
    metrics = {"members": members} | {s: all_metrics(means[s], y) for s, (_, y) in study.data.splits.items()}
    if len(seeds) == 2 and method != "ind":
        running = np.cumsum(np.asarray(of_members, "float64"), axis=0)
        metrics["ensemble_error"] = np.mean(np.argmax(running, axis=2) != study.data.test[1], axis=1).tolist()
    return metrics


def measure_paired(study, method, *seeds):
    """The difference of a method and Ind on the same test images: mean over images and runs, and its standard error.

    The standard error is over images, so it says nothing of other networks. Each side has a temperature for its NLL
    ("calibrated_nll"), fitted on the validation images; without those, on the test images.
    """
    _, y = study.data.test
    differences = {"error": [], "nll": [], "calibrated_nll": []}
    for seed in seeds:
        losses = [losses_of_images(study, name, seed) for name in ("ind", method)]
        for name, values in differences.items():
            values.append(losses[1][name] - 1.0 * losses[0][name])
    return {
        name: {"mean": float(np.mean(values)), "se": float(np.std(np.mean(values, axis=0), ddof=1) / np.sqrt(len(y)))}
        for name, values in differences.items()
    }


def losses_of_images(study, method, seed):
    """{"error", "nll", "calibrated_nll"}: the losses of one run on each test image."""
    path = predictions_path(study, method, seed)
    if not os.path.exists(path):
        {"ind": run_ind, "fge": run_fge}[method](study, seed)
    predictions, (_, y) = read_npz(path, path), study.data.test
    fitted_on = "validation" if "validation" in predictions else "test"
    labels = study.data.splits[fitted_on][1]
    logits = logits_of(predictions[fitted_on].astype("float64"), are_independent=False)
    temperature, _ = best_temperature(logits, logits[np.arange(len(labels)), labels], np.ones(len(labels)))
    test = predictions["test"].astype("float64")
    calibrated = with_temperature(test, temperature, are_independent=False)
    rows = np.arange(len(y))
    nll, after = (-np.log(np.maximum(array[rows, y], LEAST)) for array in (test, calibrated))
    return {"error": np.argmax(test, axis=1) != y, "nll": nll, "calibrated_nll": after}


def predictions_path(study, method, seed):
    return study.path("checkpoints", f"predictions_{method}_{seed}.npz")


def disagreement(classes):
    """The share of images that two members classify differently, mean over all pairs of members; 0 for one member."""
    pairs = [np.mean(first != second) for first, second in itertools.combinations(classes, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def all_metrics(probabilities, labels):
    probabilities = probabilities.astype("float64")
    return {
        **keras_fge.classification_metrics(probabilities, labels),
        **keras_fge.calibrated_metrics(probabilities, labels),
    }
