"""The two experiments of the paper: curves between networks, and ensembles at equal training budgets.

`settings` is any object with the flags of `cifar.py` as attributes. All choices (hyper-parameters, members, stopping)
were made on validation data; `test` data are only measured.
"""

import time

import keras
import numpy as np
from keras import ops

import curves
import keras_fge
from networks import NETWORKS


def make_network(settings, data, seed):
    """A new network, initialized by `seed`, compiled with the settings of ordinary training."""
    keras.utils.set_random_seed(seed)
    make = NETWORKS[settings.network]
    network = make(data.train[0].shape[1:], data.num_classes, settings.weight_decay, settings.width)
    compile_model(network, settings, settings.learning_rate)
    return network


def compile_model(model, settings, learning_rate):
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=settings.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings.jit_compile,
    )


def fit(model, settings, data, epochs, callbacks, initial_epoch=0):
    model.fit(
        *data.train,
        batch_size=settings.batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
        verbose=0,
    )


def paper_schedule(learning_rate, epochs):
    """The paper's learning rate, set at the start of each epoch as in the authors' code."""
    return keras.callbacks.LearningRateScheduler(
        lambda epoch, _: float(ops.convert_to_numpy(keras_fge.piecewise_linear(epoch + 1, learning_rate, epochs)))
    )


# --- Curves -----------------------------------------------------------------------------------------------------------


def run_curves(settings, data, progress):
    """Two networks from different seeds, the straight line between them, and the curves that connect them.

    Returns:
        (paths, planes): dictionaries of label to `curves.PathResult`, and to `curves.PlaneResult`: the planes through
        three independent networks, and through the bends of each curve.
    """
    train_subset = {"train_samples": settings.train_samples or None, "bn_samples": settings.bn_samples or None}
    ends = []
    for seed in range(settings.seed, settings.seed + (3 if settings.plane_points else 2)):
        network = make_network(settings, data, seed)
        with progress.task(f"network {len(ends) + 1}", settings.epochs) as ticker:
            schedule = paper_schedule(settings.learning_rate, settings.epochs)
            fit(network, settings, data, settings.epochs, [schedule, ticker])
        ends.append(network)

    paths, planes = {}, {}

    def measure_plane(label, networks):
        with progress.task(f"{label}: plane", None):
            arguments = {"num_points": settings.plane_points, **train_subset, "batch_size": settings.eval_batch_size}
            planes[label] = curves.evaluate_plane(networks, data.train, data.test, **arguments, verbose=False)

    if settings.plane_points:
        measure_plane("three independent networks", [ends[0], ends[2], ends[1]])
    lines = {
        "straight line": (curves.PolygonalChain(2), "uniform"),
        "Bezier curve": (curves.Bezier(settings.num_bends), "uniform"),
        "polygonal chain": (curves.PolygonalChain(settings.num_bends), "uniform"),
    }
    if settings.arc_length:
        lines["Bezier by length"] = (curves.Bezier(settings.num_bends), "arc_length")
        lines["chain by length"] = (curves.PolygonalChain(settings.num_bends), "arc_length")
    for name, (curve, objective) in lines.items():
        # The network brings its own weight decay.
        model = curves.connect(ends[0], ends[1], curve, objective=objective, seed=settings.seed)
        compile_model(model, settings, settings.curve_learning_rate)
        if model.trainable_variables:
            keras.utils.set_random_seed(settings.seed)
            with progress.task(name, settings.curve_epochs) as ticker:
                schedule = paper_schedule(settings.curve_learning_rate, settings.curve_epochs)
                fit(model, settings, data, settings.curve_epochs, [schedule, ticker])
        with progress.task(f"{name}: loss along it", None):
            arguments = {"num_points": settings.num_points, **train_subset, "batch_size": settings.eval_batch_size}
            paths[name] = curves.evaluate_path(model, data.train, data.test, **arguments, verbose=False)
        if settings.plane_points and curve.num_bends == 3 and objective == "uniform":
            measure_plane(name, model)
    return paths, planes


# --- Ensembles --------------------------------------------------------------------------------------------------------


def run_ensembles(settings, data, progress):
    """Ind, SSE and FGE at budgets of 1B, 2B and 3B epochs, B = `settings.epochs`.

    Every run costs B epochs. At kB the members of k independent runs are pooled. The FGE run of a seed branches off the
    ordinary run of the same seed, which saves time here; its cost is counted in full.

    Returns:
        (groups, trace): a list of dictionaries, one for each method, budget and group of k runs, with the number of
        members and the metrics on validation and test data; and the measurements along the first FGE run.
    """
    runs, trace = {"Ind": [], "SSE": [], "FGE": []}, None
    with progress.task("ensembles", 3 * settings.runs) as ticker:
        for run in range(settings.runs):
            seed = settings.seed + 100 + run
            recorder = TrajectoryRecorder(data.test) if run == 0 else None
            network, single, snapshots = train_ind_and_fge(settings, data, seed, recorder, ticker)
            trace = recorder.trace if recorder else trace
            runs["Ind"].append(predict_run(network, [single], data))
            runs["FGE"].append(predict_run(network, snapshots, data))
            runs["SSE"].append(predict_run(network, train_sse(settings, data, seed), data))
            ticker.advance()
    groups = []
    for method, predictions in runs.items():
        for budget in (1, 2, 3):
            for first in range(0, settings.runs - budget + 1, budget):
                groups.append(pool(predictions[first : first + budget], data))
                groups[-1].update(method=method, budget=budget, runs=list(range(first, first + budget)))
    return groups, trace


def predict_run(network, snapshots, data):
    """The ensemble of one run: number of members, probabilities on validation and test images."""
    ensemble = keras_fge.Ensemble(network, snapshots, from_logits=True)
    probabilities = {
        split: ensemble.predict(getattr(data, split)[0], batch_size=1000) for split in ("validation", "test")
    }
    return {"members": len(ensemble), **probabilities}


def pool(runs, data):
    """The ensemble of the members of several runs. They have equally many: its mean is the mean of the runs' means."""
    metrics = {}
    for split in ("validation", "test"):
        prediction = np.mean([run[split] for run in runs], axis=0, dtype="float64"), getattr(data, split)[1]
        metrics[split] = {**keras_fge.classification_metrics(*prediction), **keras_fge.calibrated_metrics(*prediction)}
    return {"members": sum(run["members"] for run in runs), **metrics}


def train_ind_and_fge(settings, data, seed, recorder, ticker):
    """An ordinary network, and the FGE snapshots that branch off its training at `settings.fge_start`."""
    network = make_network(settings, data, seed)
    start = round(settings.fge_start * settings.epochs)
    schedule = paper_schedule(settings.learning_rate, settings.epochs)
    fit(network, settings, data, start, [schedule])
    variables = network.variables + network.optimizer.variables
    branch = [ops.convert_to_numpy(variable.value) for variable in variables]
    fit(network, settings, data, settings.epochs, [schedule], initial_epoch=start)
    single = keras_fge.Snapshot.of(network)
    ticker.advance()

    for variable, value in zip(variables, branch):
        variable.assign(value)
    fge = keras_fge.FGE(settings.fge_max_learning_rate, settings.fge_min_learning_rate, settings.fge_cycle_epochs)
    fit(network, settings, data, settings.epochs - start, [fge, recorder] if recorder else [fge])
    if recorder:
        recorder.add_schedule(fge)
    ticker.advance()
    return network, single, fge.snapshots


def train_sse(settings, data, seed):
    network = make_network(settings, data, seed)
    sse = keras_fge.SnapshotEnsemble(settings.sse_max_learning_rate, settings.epochs // settings.sse_cycles)
    fit(network, settings, data, settings.epochs // settings.sse_cycles * settings.sse_cycles, [sse])
    return sse.snapshots


class TrajectoryRecorder(keras.callbacks.Callback):
    """Test error and distance from the start, ||w_i - w_0|| over the trainable weights, every few iterations."""

    def __init__(self, test, points_per_epoch=10):
        super().__init__()
        self.test = test
        self.points_per_epoch = points_per_epoch
        self.trace = {"iteration": [], "test_error": [], "distance": []}

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        steps = self.params["steps"]
        if batch % max(1, steps // self.points_per_epoch) == 0:
            self._record(self._epoch * steps + batch)

    def on_train_end(self, logs=None):
        self._record(self.params["epochs"] * self.params["steps"])

    def _record(self, iteration):
        model = self.model
        weights = [ops.convert_to_numpy(v.value).astype("float64") for v in model.trainable_variables]
        if iteration == 0:
            self._start = weights
        squares = [np.sum((now - start) ** 2) for now, start in zip(weights, self._start)]
        x, y = self.test
        self.trace["iteration"].append(iteration)
        self.trace["distance"].append(float(np.sqrt(np.sum(squares))))
        self.trace["test_error"].append(
            float(np.mean(np.argmax(model.predict(x, batch_size=1000, verbose=0), axis=1) != y))
        )

    def add_schedule(self, fge):
        """The learning rate of every update, and the updates after which the snapshots were taken."""
        updates = np.arange(1, self.trace["iteration"][-1] + 1)
        rates = ops.convert_to_numpy(fge.learning_rate(updates, 2 * fge.snapshots[0].step))
        self.trace["learning_rate"] = [float(rate) for rate in rates]
        self.trace["snapshots"] = [snapshot.step for snapshot in fge.snapshots]


def summarize_groups(groups):
    """Mean and standard error of the test metrics over the groups of each method and budget.

    Returns:
        `{method: {budget: {"n", "members", "error", "error_se", "nll", "nll_se", ...}}}`.
    """
    summary = {}
    for group in groups:
        summary.setdefault(group["method"], {}).setdefault(group["budget"], []).append(group)
    for budgets in summary.values():
        for budget, members in budgets.items():
            budgets[budget] = {"n": len(members), "members": members[0]["members"]}
            for metric in members[0]["test"]:
                values = np.array([group["test"][metric] for group in members])
                budgets[budget][metric] = float(values.mean())
                budgets[budget][f"{metric}_se"] = standard_error(values)
    return summary


def paired_difference(groups, metric, method="FGE", baseline="Ind", budget=1):
    """Mean and standard error of `method` minus `baseline` over the runs that share a seed."""
    values = {
        name: np.array([g["test"][metric] for g in groups if (g["method"], g["budget"]) == (name, budget)])
        for name in (method, baseline)
    }
    difference = values[method] - values[baseline]
    return {"mean": float(difference.mean()), "se": standard_error(difference), "n": len(difference)}


def standard_error(values):
    """Of the mean; None for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def timed(function, *arguments):
    """(result, seconds)."""
    begin = time.perf_counter()
    return function(*arguments), time.perf_counter() - begin
