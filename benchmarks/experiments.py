"""The paper's experiments, as units of work that are recorded when they are done, and taken up where they stopped.

Units need each other: a curve needs two trained networks, FGE the first part of the training of one. What is missing
is made; what is there is used. All choices (hyper-parameters, members, stopping) were made on validation data; test
data are only measured.
"""

import os
import time

import keras
import numpy as np

import curves
import keras_fge
from curves.files import read_npz, to_npz, write_atomically
from keras_fge.ensemble import RunningMean
from keras_fge.snapshots import to_array
from records import locked, unit_name
from training import (
    TrajectoryRecorder,
    compile_model,
    has_state,
    kept_state,
    load_state,
    make_network,
    train,
    train_cyclic,
)

BUDGETS = (1, 2, 3)
CURVES = ("bezier", "chain")


class Benchmark:
    """All units of one configuration.

    Args:
        settings: An object with the flags of `cifar.py` as attributes.
        data: A `Dataset`.
        records: The `Records` of the folder `settings.output_dir`, which also gets arrays and checkpoints.
        progress: A `ProgressBars`.
    """

    def __init__(self, settings, data, records, progress):
        self.settings, self.data, self.records, self.progress = settings, data, records, progress
        self._networks = {}

    def run(self, experiment):
        """Does what is missing of one of `EXPERIMENTS`."""
        EXPERIMENTS[experiment](self)

    def _unit(self, experiment, key, function, wait=True):
        """Does a unit, unless it is recorded: `function()` returns its metrics.

        While another process does it, this one waits, or goes on without it.
        """
        unit = unit_name(experiment, key)
        if unit in self.records:
            return
        with self._locked(unit, wait) as is_free:
            self.records.read()
            if is_free and unit not in self.records:
                begin = time.perf_counter()
                metrics = function()
                flags = dict(vars(self.settings))
                self.records.append(experiment, key, metrics, time.perf_counter() - begin, flags)

    def _locked(self, name, wait=True):
        return locked(self._path("checkpoints", f"{name.replace(' ', '_')}.lock"), wait)

    def _path(self, *parts):
        path = os.path.join(self.settings.output_dir, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _checkpoint(self, experiment, key):
        return self._path("checkpoints", f"{experiment}_{key}")

    # --- Networks and curves ------------------------------------------------------------------------------------------

    def endpoints(self):
        """The three networks of curves and planes: two endpoints, and one more. They are the first ones of Ind, too."""
        self._runs("ind", self._end_seeds)

    @property
    def _end_seeds(self):
        return range(self.settings.seed, self.settings.seed + 3)

    def _ends(self, count):
        """The first trained networks; those that have no checkpoint are trained, whether they are recorded or not."""
        for seed in self._end_seeds[:count]:
            if seed not in self._networks:
                self._networks[seed] = self._trained_network(seed)
        return [self._networks[seed] for seed in self._end_seeds[:count]]

    def _trained_network(self, seed):
        settings = self.settings
        network = make_network(settings, self.data, seed)
        folder, keep = self._checkpoint("ind", seed), settings.fge_start_epoch
        with self._locked(f"network {seed}"), self.progress.task(f"network {seed}", settings.epochs) as ticker:
            train(network, settings, self.data, settings.epochs, settings.learning_rate, seed, folder, ticker, keep)
        return network

    def curves(self):
        """Trains the Bezier curve and the polygonal chain between the first two networks."""
        self.endpoints()
        for name in self._curve_names:
            self._unit("curve", [name], lambda name=name: self._measure_curve(name))

    def _measure_curve(self, name):
        """Metrics of the training, and those of the network in the middle of the curve."""
        model, metrics = self._curve(name)
        middle = model.network_at(0.5)
        curves.update_batch_norm(middle, self.data.train)
        ensemble = keras_fge.Ensemble(middle, [keras_fge.Snapshot.of(middle)], from_logits=True)
        splits = self.data.splits.items()
        return {**metrics, "middle": {s: all_metrics(ensemble.predict(x, batch_size=1000), y) for s, (x, y) in splits}}

    @property
    def _curve_names(self):
        lengths = [f"{name}_by_length" for name in CURVES] if self.settings.arc_length else []
        return [*CURVES, *lengths]

    def _curve(self, name):
        """(CurveModel, metrics of its last epoch), trained as far as it is not."""
        settings = self.settings
        ends = self._ends(2)
        if name == "line":
            model = curves.connect(*ends, curves.PolygonalChain(2))
            compile_model(model, settings, settings.curve_learning_rate)
            return model, {}
        curve = (curves.Bezier if name.startswith("bezier") else curves.PolygonalChain)(settings.num_bends)
        objective = "arc_length" if name.endswith("by_length") else "uniform"
        keras.utils.set_random_seed(settings.seed)
        # The network brings its own weight decay.
        model = curves.connect(*ends, curve, objective=objective, seed=settings.seed)
        compile_model(model, settings, settings.curve_learning_rate)
        folder, rate = self._checkpoint("curve", name), settings.curve_learning_rate
        with self._locked(f"training {name}"), self.progress.task(f"curve {name}", settings.curve_epochs) as ticker:
            trained = train(model, settings, self.data, settings.curve_epochs, rate, settings.seed, folder, ticker)
        metrics = {"train_loss": trained.logs["loss"], "train_error": 1 - trained.logs["accuracy"]}
        return model, {**metrics, "arc_length": model.arc_length()}

    def paths(self):
        """Loss and error along the straight line and the curves."""
        self.curves()
        for name in ("line", *self._curve_names):
            self._unit("path", [name], lambda name=name: self._measure_path(name))

    def _measure_path(self, name):
        model, data = self._curve(name)[0], (self.data.train, self.data.test)
        path, points = self._path(f"path_{name}.npz"), self.settings.num_points
        with self.progress.task(f"path {name}"):
            result = curves.evaluate_path(model, *data, points, **self._subset, path=path, verbose=False)
        ends = {"train_loss": result.train["loss"][[0, -1]], "test_error": result.test["error"][[0, -1]]}
        return {**result.summary(), **{f"{quantity}_ends": values.tolist() for quantity, values in ends.items()}}

    def planes(self):
        """Loss and error in the planes of three independent networks, of the Bezier curve, and of the chain."""
        self.curves()
        names = ["independent", *(CURVES if self.settings.num_bends == 3 else [])]
        for name in names if self.settings.plane_points else []:
            self._unit("plane", [name], lambda name=name: self._measure_plane(name))

    def _measure_plane(self, name):
        if name == "independent":
            first, second, third = self._ends(3)
            networks = [first, third, second]  # The first two stand where they do in the planes of their curves.
        else:
            networks = self._curve(name)[0]
        arguments = {"num_points": self.settings.plane_points, "path": self._path(f"plane_{name}.npz"), **self._subset}
        with self.progress.task(f"plane {name}"):
            plane = curves.evaluate_plane(networks, self.data.train, self.data.test, **arguments, verbose=False)
        return plane.summary()

    @property
    def _subset(self):
        settings = self.settings
        return {
            "train_samples": settings.train_samples or None,
            "bn_samples": settings.bn_samples or None,
            "batch_size": settings.eval_batch_size,
        }

    # --- Ensembles ----------------------------------------------------------------------------------------------------

    def ind(self):
        """Independent networks, the ordinary way to an ensemble."""
        self._runs_and_pools("ind")

    def sse(self):
        """Snapshot Ensembles: a whole run in a few cosine cycles."""
        self._runs_and_pools("sse")

    def fge(self):
        """Fast Geometric Ensembling, which branches off the training of the independent network of the same seed.

        That saves time here; an FGE run counts as a whole run in all comparisons.
        """
        self._runs_and_pools("fge")

    def swa(self):
        """Stochastic Weight Averaging: the mean of the weights of the members of FGE, in one network."""
        self.fge()
        self._runs("swa")

    @property
    def _seeds(self):
        return range(self.settings.seed, self.settings.seed + self.settings.runs)

    def _ind_run(self, seed):
        network = self._trained_network(seed)
        snapshot = keras_fge.Snapshot.of(network, self.settings.epochs * self._steps)
        return self._measure_ensemble("ind", seed, network, [snapshot])

    def _sse_run(self, seed):
        settings = self.settings
        network = make_network(settings, self.data, seed)
        sse = keras_fge.SnapshotEnsemble(
            settings.sse_max_learning_rate,
            settings.epochs // settings.sse_cycles,
            directory=self._checkpoint("sse", seed),
            resume=True,
        )
        with self._locked(f"run sse {seed}"), self.progress.task(f"sse {seed}", settings.epochs) as ticker:
            train_cyclic(network, sse, settings, self.data, seed, [ticker])
        return self._measure_ensemble("sse", seed, network, sse.snapshots)

    def _fge_run(self, seed):
        settings = self.settings
        start, epochs = settings.fge_start_epoch, settings.epochs - settings.fge_start_epoch
        branch = kept_state(self._checkpoint("ind", seed), start)
        if not has_state(branch):
            self._trained_network(seed)
        network = make_network(settings, self.data, seed)
        load_state(network, branch)
        fge = keras_fge.FGE(
            settings.fge_max_learning_rate,
            settings.fge_min_learning_rate,
            cycle_steps=settings.fge_cycle_steps,
            start_epoch=start,
            directory=self._checkpoint("fge", seed),
            resume=True,
        )
        recorders = []
        if seed == settings.seed:
            weights = [to_array(variable) for variable in network.trainable_variables]
            path = self._path("checkpoints", f"fge_{seed}_trace.json")
            recorders = [TrajectoryRecorder(self.data.test, weights, start, path, -(-fge.cycle_steps // 8))]
        with self._locked(f"run fge {seed}"), self.progress.task(f"fge {seed}", epochs) as ticker:
            train_cyclic(network, fge, settings, self.data, seed, [*recorders, ticker], start)
        metrics = self._measure_ensemble("fge", seed, network, fge.snapshots, start)
        for recorder in recorders:
            snapshots = [snapshot.step for snapshot in fge.snapshots]
            metrics["trace"] = {**recorder.trace, "cycle_steps": fge.cycle_steps, "snapshots": snapshots}
        return metrics

    def _swa_run(self, seed):
        members = self.records.metrics(unit_name("fge", [seed]))["members"]
        folder = self._checkpoint("fge", seed)
        if not os.path.exists(folder) or len(keras_fge.Ensemble.load(folder)) < members:
            self._fge_run(seed)
        network = keras_fge.Ensemble.load(folder).average_weights(self.data.train)
        snapshot = keras_fge.Snapshot.of(network, self.settings.epochs * self._steps)
        return self._measure_ensemble("swa", seed, network, [snapshot])

    @property
    def _steps(self):
        return -(-len(self.data.train[0]) // self.settings.batch_size)

    def _measure_ensemble(self, method, seed, network, snapshots, first_epoch=0):
        """Metrics of the ensemble of one run, and of its members one by one; its mean prediction goes to a file.

        Returns:
            {"members": count, split: metrics of the ensemble, "epochs": when each member was collected,
            "member_error": of each one, "ensemble_error": of the first 1, 2, ...}, the last two on test data.
        """
        ensemble = keras_fge.Ensemble(network, snapshots, from_logits=True)
        metrics, means = {"members": len(ensemble)}, {}
        for split, (x, y) in self.data.splits.items():
            running = RunningMean()
            members, sizes = [], []
            for index in range(len(ensemble)):
                probabilities = ensemble[index : index + 1].predict(x, batch_size=1000)
                running.add(probabilities)
                members.append(error_of(probabilities, y))
                sizes.append(error_of(running.mean(), y))
            means[split] = running.mean().astype("float32")
            metrics[split] = all_metrics(means[split], y)
            if split == "test":
                epochs = [first_epoch + snapshot.step / self._steps for snapshot in snapshots]
                metrics.update(epochs=epochs, member_error=members, ensemble_error=sizes)
        write_atomically(self._predictions(method, seed), to_npz(means))
        return metrics

    def _predictions(self, method, seed):
        return self._path("checkpoints", f"predictions_{method}_{seed}.npz")

    def _runs(self, method, seeds=None):
        for wait in (False, True):  # What another process does now may be done when this one comes back.
            for seed in seeds or self._seeds:
                self._unit(method, [seed], lambda seed=seed: RUNS[method](self, seed), wait)

    def _runs_and_pools(self, method):
        self._runs(method)
        for budget in BUDGETS:
            for first in range(0, self.settings.runs - budget + 1, budget):
                seeds = list(self._seeds[first : first + budget])
                self._unit(f"{method} ensemble", [budget, *seeds], lambda seeds=seeds: self._pool(method, seeds))

    def _pool(self, method, seeds):
        """The ensemble of the members of several runs. They have equally many: its mean is that of the runs' means."""
        means = {split: 0 for split in self.data.splits}
        for seed in seeds:
            path = self._predictions(method, seed)
            if not os.path.exists(path):
                RUNS[method](self, seed)
            predictions = read_npz(path, path)
            means = {split: mean + predictions[split].astype("float64") / len(seeds) for split, mean in means.items()}
        members = sum(self.records.metrics(unit_name(method, [seed]))["members"] for seed in seeds)
        return {"members": members} | {s: all_metrics(means[s], y) for s, (_, y) in self.data.splits.items()}


RUNS = {"ind": Benchmark._ind_run, "sse": Benchmark._sse_run, "fge": Benchmark._fge_run, "swa": Benchmark._swa_run}
EXPERIMENTS = {
    "endpoint": Benchmark.endpoints,
    "curve": Benchmark.curves,
    "path": Benchmark.paths,
    "plane": Benchmark.planes,
    "ind": Benchmark.ind,
    "sse": Benchmark.sse,
    "fge": Benchmark.fge,
    "swa": Benchmark.swa,
}


def error_of(probabilities, labels):
    return float(np.mean(np.argmax(probabilities, axis=1) != labels))


def all_metrics(probabilities, labels):
    probabilities = probabilities.astype("float64")
    return {
        **keras_fge.classification_metrics(probabilities, labels),
        **keras_fge.calibrated_metrics(probabilities, labels),
    }
