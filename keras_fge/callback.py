"""`FGE` and `SnapshotEnsemble`: Keras callbacks that turn one training run into an ensemble."""

import abc
import itertools
import math
import numbers
import warnings
import weakref

import keras
import numpy as np
from keras import ops

from curves.networks import arithmetic, refresh, restored
from keras_fge.ensemble import Ensemble, RunningMean, check_order, measure, predict_with_labels, to_probabilities
from keras_fge.folder import Folder, checksum, is_chief, set_random_states
from keras_fge.schedule import LearningRateFunction, cosine, scheduled, scheduled_optimizer, triangular
from keras_fge.snapshots import Snapshot, StoredSnapshot, distance, to_array, training_state


class CyclicEnsemble(keras.callbacks.Callback, abc.ABC):
    """What `FGE` and `SnapshotEnsemble` share: a cyclical learning rate, and a snapshot at its minimum in every cycle.

    The learning rate is applied inside the compiled step, as a function of the optimizer's iteration count, so it is
    exact for every update, also with `steps_per_execution` > 1, and costs nothing. Before `start_epoch` training is as
    it would be without this callback. Each `fit` starts a cycle of its own; snapshots are added to those of earlier
    runs. After training, also after an error or an interrupt, the optimizer has the learning rate it had, and the next
    `fit` uses it. With gradient accumulation, steps are batches, and a snapshot falls on an update.

    Each epoch logs "learning_rate". After each snapshot, and in `Snapshot.metrics`, it logs "distance_from_start" and
    "distance_from_last": ||w - v|| over the trainable weights, from where the cycles began and from the snapshot
    before; and with `validation_data`, "member_error" and "ensemble_error", "ensemble_nll" of the ensemble so far (or
    the metrics that fit other outputs; see `Ensemble.evaluate`). Before the first snapshot these are NaN.

    With a `directory`, nothing is lost when the process dies. Every snapshot is written there as soon as it is taken,
    and no longer held in memory; `Ensemble.load(directory)` reads the folder, also of an unfinished run. At the end of
    every epoch, unless that would take more than a tenth of the time, the whole state of the training is written:
    weights, optimizer, random seeds, cycle. The same program with `resume=True` continues from there (or begins, if
    there is nothing yet), and ends with the same members, bit for bit where the hardware computes so. That takes data
    in an order that does not depend on the process: `shuffle=False`, or the data set of `batches`. (Keras' own
    shuffling of arrays is resumed on JAX and torch, not on TensorFlow.) A second `fit` with a folder continues that
    run, too. List this callback after those that change weights or optimizer at the end of an epoch; the states of
    other callbacks are not saved. Where JAX runs on several processes, the first one writes, and all read the folder.

    Attributes:
        snapshots: List of `Snapshot`, one for each cycle so far.
        epoch: The epoch that `fit` is in, 0 before.
    """

    # Snapshots are taken before the next batch or at the end of the epoch: a callback that overrides
    # `on_train_batch_end` makes JAX wait for every step.

    def __init__(self, cycle_epochs, cycle_steps, start_epoch, validation_data, directory, resume):
        super().__init__()
        if (cycle_epochs is None) == (cycle_steps is None):
            raise ValueError(
                "Give the length of a cycle as either `cycle_epochs` or `cycle_steps`. "
                f"Received: cycle_epochs={cycle_epochs}, cycle_steps={cycle_steps}"
            )
        lengths = {"cycle_epochs": cycle_epochs} if cycle_steps is None else {"cycle_steps": cycle_steps}
        for name, value in {**lengths, "start_epoch": start_epoch}.items():
            least = 0 if name == "start_epoch" else 1
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                kind = "a positive integer" if least else "0 or a positive integer"
                raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")
        if resume and directory is None:
            raise ValueError("`resume=True` needs the `directory` of the run to resume.")
        if isinstance(validation_data, tuple) and len(validation_data) != 2:
            raise ValueError(f"`validation_data` must be (x, y) or a data set. Received: {len(validation_data)} parts")
        if hasattr(validation_data, "__next__"):
            raise ValueError("`validation_data` is read many times: give arrays or a data set, not a generator.")
        self.cycle_epochs = cycle_epochs and int(cycle_epochs)
        self.cycle_steps = cycle_steps and int(cycle_steps)
        self.start_epoch = int(start_epoch)
        self.validation_data = validation_data
        self.directory = directory
        self.resume = resume
        self.snapshots = []
        self.epoch = 0
        self._running = RunningMean()

    @abc.abstractmethod
    def learning_rate(self, step, cycle_steps):
        """The learning rate of update `step` = 1, 2, ..., for a cycle of `cycle_steps` updates."""

    @abc.abstractmethod
    def position_of_minimum(self, cycle_steps):
        """The update of the cycle, 1 to `cycle_steps`, after which the snapshot is taken."""

    def ensemble(self, from_logits="as compiled"):
        """The `Ensemble` of the snapshots so far.

        Args:
            from_logits: What the network outputs; see `Ensemble`. Default: as the compiled losses say.

        Raises:
            ValueError: if there is no snapshot yet, or the compiled losses do not say whether they take logits.
        """
        if not self.snapshots:
            raise ValueError("No snapshot has been collected yet: pass this callback to `fit`.")
        if from_logits == "as compiled":
            from_logits = self._from_logits()
        return Ensemble(self.model, self.snapshots, from_logits)

    def batches(self, x, y, batch_size=32, seed=0):
        """The arrays as a data set for a `fit` with this callback, shuffled anew in each epoch.

        A resumed run shares the order.

        Args:
            x, y: Arrays, or structures of arrays, of one length.
            batch_size: Samples per batch; the last batch may be shorter. Default: 32.
            seed: The order depends on it and the epoch alone. Default: 0.

        Example:
            fge = keras_fge.FGE(0.05, 0.0005, directory="run", resume=True)
            model.fit(fge.batches(x, y, batch_size=128), epochs=20, callbacks=[fge])
        """
        return Batches(self, x, y, batch_size, seed)

    def plot(self, path=None):
        """The paper's figure of the last run: learning rate, error, and distances, against the iteration.

        Args:
            path: File to write. Default: none.

        Returns:
            A `matplotlib.figure.Figure`. The panel of errors is there if there were `validation_data`.
        """
        from keras_fge.plots import plot_run

        snapshots = self.snapshots[self._earlier :] if self.snapshots else []
        if not snapshots:
            raise ValueError("No snapshot has been collected yet: there is nothing to plot.")
        steps = np.arange(1, snapshots[-1].step + 1)
        rates = ops.convert_to_numpy(self.learning_rate(steps, self._cycle))
        return plot_run(steps, rates, snapshots, path)

    def on_train_begin(self, logs=None):
        model = self.model
        if self.params.setdefault("cyclic_ensemble", self) is not self:  # Shared by all callbacks of this `fit`.
            names = f"{type(self).__name__} and {type(self.params['cyclic_ensemble']).__name__}"
            raise ValueError(f"{names} cannot share one `fit`: each sets the learning rate.")
        if self.snapshots:
            self.snapshots[0].check(model, 0)
        self._cycle = self._cycle_in_steps(self.params.get("steps"))
        self._snapshot_at = self.position_of_minimum(self._cycle)
        self._optimizer = scheduled_optimizer(model.optimizer)
        self._check_alignment(self.params.get("steps"), model.steps_per_execution)
        self._plain_function = None
        self._start = None
        self._last_snapshot_step = 0
        self._start_snapshot = None
        self._labels = None
        self._latest = {}
        self._run_begins = True
        self._batch = 0
        self._check_members(self.params["epochs"], 0)
        self._earlier = len(self.snapshots)
        if self.validation_data is not None:  # What cannot be measured should be known now.
            measure(model, *self._predict(model), self._from_logits())
        if self.directory is not None:
            self._open_folder()
        if self.validation_data is not None and self._running.count != len(self.snapshots):
            self._sum_up_members()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        model = self.model
        if self._run_begins:
            self._check_members(self.params["epochs"], epoch)
            self._run_begins = False
            model._initial_epoch = None  # Or a later `fit` would begin there too.
        if self._plain_function is None and epoch >= self.start_epoch:
            if self._start is None:
                # A group of accumulated gradients that has begun belongs to the first update of the cycle.
                iterations = self._iterations()
                self._start = iterations - iterations % (self._optimizer.gradient_accumulation_steps or 1)
                self._start_snapshot = self._stored(Snapshot.of(model), "start")
            self._install(model, LearningRateFunction(lambda step: self.learning_rate(step, self._cycle), self._start))
        if self._start is not None:
            self._epoch_start = self._steps_done()

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        if self._start is None:
            return
        self._armed = True
        if self._is_due(self._epoch_start + batch):
            # Updates that a LossScaleOptimizer skips do not count. The true number is costly to read on JAX, and never
            # larger than the count of batches: so it is enough to look here.
            self._epoch_start = self._steps_done() - batch
            self._collect_if_due(self._epoch_start + batch)

    def on_epoch_end(self, epoch, logs=None):
        if self._start is None:
            rate = self._optimizer.learning_rate
        else:
            step = self._steps_done()
            self._collect_if_due(step)
            rate = self.learning_rate(max(step, 1), self._cycle)
        if logs is not None:
            logs["learning_rate"] = float(ops.convert_to_numpy(rate))
            logs.update(self._latest or dict.fromkeys(self._names_of_metrics(), float("nan")))
        steps = self.params.get("steps")
        is_whole = not steps or self._batch + self.model.steps_per_execution >= steps
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        # An epoch that was cut short is done again.
        if self.directory is not None and is_whole and (is_last or self._folder.state_is_due()):
            self._write_state(epoch + 1)

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None
        if self._plain_function is not None:
            self.model.train_function = self._plain_function
        if self._run_begins and self.directory is not None:
            warnings.warn(f"There was nothing to train: '{self.directory}' holds the finished run.", stacklevel=2)
        elif not self._last_snapshot_step:
            warnings.warn(f"{type(self).__name__} collected no snapshot: training ended too early.", stacklevel=2)

    def _iterations(self):
        """Updates of the optimizer, or calls of it, if it accumulates gradients."""
        _ = self.model  # On JAX, this brings the optimizer up to date.
        return int(ops.convert_to_numpy(self._optimizer._iterations.value))

    def _steps_done(self):
        return self._iterations() - self._start

    def _is_due(self, step):
        """Whether a minimum was reached since the last snapshot.

        It was reached just now, unless a `LossScaleOptimizer` skipped an update in an execution of several steps: then
        it may be a few steps ago.
        """
        return (step - self._snapshot_at) // self._cycle > (self._last_snapshot_step - self._snapshot_at) // self._cycle

    def _collect_if_due(self, step):
        if not self._is_due(step):
            return
        model = self.model
        rate = float(ops.convert_to_numpy(self.learning_rate(step, self._cycle)))
        snapshot = Snapshot.of(model, step, rate)
        last = self.snapshots[-1] if self._last_snapshot_step else self._start_snapshot
        snapshot.metrics = {
            "distance_from_start": distance(model, snapshot.weights, self._start_snapshot.weights),
            "distance_from_last": distance(model, snapshot.weights, last.weights),
        }
        self.snapshots.append(snapshot)  # Before anything that may fail.
        self.snapshots[-1] = stored = self._stored(snapshot, "member")
        self._last_snapshot_step = step
        if self.directory is not None:
            self._write_manifest()
        stored.metrics = self._latest = {**snapshot.metrics, **self._validate(model)}
        if self.directory is not None:
            self._write_manifest()

    def _validate(self, model):
        """Metrics of the network as it is, and of the ensemble with those before it."""
        if self.validation_data is None:
            return {}
        outputs, labels = self._predict(model)
        from_logits = self._from_logits()
        self._running.add(outputs)
        member = measure(model, outputs, labels, from_logits)
        ensemble = measure(model, self._running.mean(), labels, from_logits)
        return {
            **{f"member_{name}": value for name, value in member.items() if name.endswith(("error", "mse"))},
            **{f"ensemble_{n}": value for n, value in ensemble.items() if n.endswith(("error", "nll", "mse"))},
        }

    def _predict(self, model):
        """(probabilities, labels) of the validation data."""
        x, y = self.validation_data if isinstance(self.validation_data, tuple) else (self.validation_data, None)
        with restored(model, only_on_error=True):
            outputs, labels = predict_with_labels(model, x, y, None)
        check_order(self._labels, labels, "`validation_data`")
        self._labels = labels
        return to_probabilities(outputs, self._from_logits()), labels

    def _sum_up_members(self):
        """Brings `_running` to where it was after the last snapshot."""
        self._running = RunningMean()
        model = self.model
        with restored(model):
            for snapshot in self.snapshots:
                model.set_weights(snapshot.weights)
                refresh(model)
                self._running.add(self._predict(model)[0])
        refresh(model)

    def _names_of_metrics(self):
        """What `_latest` will hold, as far as it is known before: CSVLogger takes the columns of the first epoch."""
        names = ["distance_from_start", "distance_from_last"]
        from_logits = None if self.validation_data is None else self._from_logits()
        if self.validation_data is not None and not isinstance(from_logits, list):
            metrics = ["mse"] if from_logits is None else ["error", "nll"]
            names += [f"member_{metrics[0]}", *(f"ensemble_{metric}" for metric in metrics)]
        return names

    def _from_logits(self):
        return losses_from_logits(self.model)

    # --- The folder ---------------------------------------------------------------------------------------------------

    def _open_folder(self):
        """Begins a run in an empty folder, or takes up the one that is there."""
        model, self._folder = self.model, Folder(self.directory)
        if not all(layer.built for layer in model._flatten_layers()):
            raise ValueError(
                f"`directory` needs a network that is built: call '{model.name}' on some data before `fit`."
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        about = {
            "callback": type(self).__name__,
            "max_learning_rate": self.max_learning_rate,
            "min_learning_rate": self.min_learning_rate,
            "cycle_steps": self._cycle,
            "start_epoch": self.start_epoch,
            "steps_per_epoch": self.params.get("steps"),
            "architecture": checksum([{**layer, "name": None} for layer in arithmetic(model)]),
            "optimizer": type(self._optimizer).__name__,
            "optimizer_config": checksum({**self._optimizer.get_config(), "learning_rate": None, "name": None}),
        }
        if self._folder.exists() and self.resume:
            self._take_up(about)
            return
        self._about = {"settings": about, "from_logits": self._known_from_logits()}
        if self._folder.exists():
            raise ValueError(
                f"`directory`: '{self.directory}' holds a run already. Continue it with `resume=True`, or give another "
                "folder."
            )
        self._folder.create(model)
        self._write_state(0)
        self._write_manifest()

    def _known_from_logits(self):
        try:
            return self._from_logits()
        except ValueError:
            return "unknown"

    def _take_up(self, settings):
        manifest = self._folder.read_manifest()
        for name, value in settings.items():
            theirs = manifest.get("settings", {}).get(name)
            if theirs != value:
                raise ValueError(
                    f"`directory`: '{self.directory}' holds another run: its {name} is {theirs}, here it is {value}."
                )
        self._about = {"settings": settings, "from_logits": manifest["from_logits"]}
        counters, arrays = self._folder.read_state()
        variables = training_state(self.model)
        expected, received = ([tuple(value.shape) for value in values] for values in (variables, arrays))
        if expected != received:
            raise ValueError(
                f"`directory`: '{self.directory}' holds the run of another network or optimizer: {len(received)} "
                f"values against {len(expected)}, or other shapes."
            )
        # Members that came after the state will be made again, the same, and then replace those.
        self.snapshots = manifest["members"][: counters["members"]]
        for index, snapshot in enumerate(self.snapshots):
            snapshot.check(self.model, index)
            _ = snapshot.weights  # Compares the checksum.
        if counters["start_snapshot"]:
            self._start_snapshot = StoredSnapshot(self.directory, counters["start_snapshot"])
            _ = self._start_snapshot.weights
        if self.validation_data is not None:
            self._sum_up_members()
        for variable, value in zip(variables, arrays):
            variable.assign(value)
        refresh(self.model)
        self.model._initial_epoch = self.epoch = counters["epoch"]
        self._start, self._last_snapshot_step = counters["start"], counters["last_snapshot_step"]
        self._earlier = 0
        if self.snapshots:
            self._latest = self.snapshots[-1].metrics
        self._folder.remove_leftovers()
        set_random_states(counters["random"])  # Last: predictions use the generators too.

    def _write_state(self, epoch):
        if not is_chief():
            return
        counters = {
            "epoch": epoch,
            "start": self._start,
            "last_snapshot_step": self._last_snapshot_step,
            "members": len(self.snapshots),
            "start_snapshot": self._start_snapshot and self._start_snapshot.to_entry(),
        }
        self._folder.write_state(counters, [to_array(variable) for variable in training_state(self.model)])

    def _write_manifest(self):
        if is_chief():
            self._folder.write_manifest(self.snapshots, **self._about)

    def _stored(self, snapshot, prefix):
        """The snapshot, in the folder if there is one."""
        if self.directory is None or not is_chief():
            return snapshot
        return StoredSnapshot.write(snapshot, self._folder.path, prefix)

    # --- The learning rate --------------------------------------------------------------------------------------------

    def _install(self, model, schedule):
        """Replaces the compiled train function, for this run, by one that was traced with `schedule`."""
        history = model.history
        self._armed = False
        plain = self._plain_function = getattr(model.train_function, "plain", model.train_function)
        cyclic = _make_train_function(model)

        def train_function(*args):
            # Keras does not say when fit breaks off. A later fit without this callback has another `history`, or, where
            # the user shares that, does not announce its batches here.
            if not (self._armed and model.history is history):
                model.train_function = plain
                return plain(*args)
            self._armed = False
            with scheduled(self._optimizer, schedule):
                return cyclic(*args)

        train_function.plain = plain
        model.train_function = train_function

    def _cycle_in_steps(self, steps_per_epoch):
        if self.cycle_steps is not None:
            return self.cycle_steps
        if steps_per_epoch is None:
            raise ValueError(
                "`cycle_epochs` needs data of known length, but fit does not know the number of batches of an epoch. "
                "Use `cycle_steps`, or pass `steps_per_epoch` to fit."
            )
        return self.cycle_epochs * steps_per_epoch

    def _check_alignment(self, steps_per_epoch, steps_per_execution):
        """A snapshot can be taken only between two executions of the compiled function, and after an update."""
        moments = [self._cycle, self._snapshot_at]
        whole_epochs = [steps_per_epoch] if steps_per_epoch else []
        if any(steps % steps_per_execution for steps in moments + whole_epochs):
            raise ValueError(
                f"The snapshot after {self._snapshot_at} of the {self._cycle} steps of a cycle would fall inside an "
                f"execution of steps_per_execution={steps_per_execution} steps. Compile with a `steps_per_execution` "
                f"that divides {', '.join(map(str, moments + whole_epochs))}, such as 1."
            )
        accumulated = self._optimizer.gradient_accumulation_steps or 1
        if any(steps % accumulated for steps in moments):
            raise ValueError(
                f"The snapshot after {self._snapshot_at} of the {self._cycle} steps of a cycle would fall between two "
                f"updates, which come every gradient_accumulation_steps={accumulated} steps. Use a cycle of a multiple "
                f"of {accumulated * self._cycle // math.gcd(self._cycle, self._snapshot_at)} steps."
            )

    def _check_members(self, epochs, epoch):
        steps_per_epoch = self.params.get("steps")
        left = max(0, epochs - max(self.start_epoch, epoch))
        done = 0 if self._start is None else self._steps_done()  # In a run that is resumed.
        if steps_per_epoch and done + left * steps_per_epoch < self._snapshot_at:
            start = f" from epoch {self.start_epoch} on" if self.start_epoch else ""
            raise ValueError(
                f"This fit has {left} epochs of {steps_per_epoch} steps{start} and would end before the first "
                f"snapshot, which is due after {self._snapshot_at} steps. Train longer, or use a shorter cycle."
            )


class FGE(CyclicEnsemble):
    """Fast Geometric Ensembling (paper, section 5, algorithm 1) as a callback of `model.fit`.

    Starts from a network that was trained in the usual way, or follows such a training in one `fit`: with
    `start_epoch=160` of 200 epochs, the first 160 go by the optimizer's own learning rate. From then on the learning
    rate follows `keras_fge.triangular`, and after every update i with mod(i, c) = c/2, at the minimum, all weights are
    collected. With momentum m, choose cycles much longer than 1 / (1 - m) updates: Keras' SGD folds the learning rate
    into the velocity (PyTorch's does not), so its steps go on at the learning rates of that many updates before.

    Args:
        max_learning_rate: alpha_1, at the ends of a cycle.
        min_learning_rate: alpha_2, in its middle; at least 0, below `max_learning_rate`.
        cycle_epochs: Length c of a cycle in epochs. Default: 2, unless `cycle_steps` is given. The paper uses 2 or 4.
        cycle_steps: Length c of a cycle in iterations, instead of `cycle_epochs`. Must be even.
        start_epoch: The epoch, counted from 0, with which the cycles begin. Default: 0.
        validation_data: Arrays `(x, y)` or a data set of such batches, on which each snapshot and the ensemble so far
            are measured, one pass for each cycle. Default: none.
        directory: Folder for members and state; see above. A network that is not built yet must be called first.
            Default: members stay in memory.
        resume: Whether to continue the run in `directory`, if there is one. Default: a run there is an error.

    Raises:
        ValueError: on bad arguments here; by `fit`, before the first update, if the cycle has an odd number of
            iterations, does not fit `steps_per_execution` or gradient accumulation, or is so long that no snapshot
            would be taken; if the optimizer has several learning rates, or is driven by another such callback; if
            `directory` holds the run of another network or with other settings.
        OSError: if a member or the state cannot be written. The snapshots are in `snapshots`, and those before in the
            folder, whole.

    Example:
        fge = keras_fge.FGE(max_learning_rate=0.05, min_learning_rate=0.0005, cycle_epochs=2)
        model.fit(x, y, epochs=12, callbacks=[fge])
        fge.ensemble().evaluate(x_test, y_test)

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(
        self,
        max_learning_rate,
        min_learning_rate,
        cycle_epochs=None,
        cycle_steps=None,
        start_epoch=0,
        validation_data=None,
        directory=None,
        resume=False,
    ):
        if not 0 <= min_learning_rate < max_learning_rate:
            raise ValueError(
                "`min_learning_rate` must be at least 0 and below `max_learning_rate`. Received: "
                f"max_learning_rate={max_learning_rate}, min_learning_rate={min_learning_rate}"
            )
        cycle_epochs = 2 if cycle_epochs is None and cycle_steps is None else cycle_epochs
        super().__init__(cycle_epochs, cycle_steps, start_epoch, validation_data, directory, resume)
        if cycle_steps is not None:
            self.position_of_minimum(cycle_steps)
        self.max_learning_rate = max_learning_rate
        self.min_learning_rate = min_learning_rate

    def learning_rate(self, step, cycle_steps):
        return triangular(step, self.max_learning_rate, self.min_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps):
        if cycle_steps % 2:
            epochs = f" ({self.cycle_epochs} epochs)" if self.cycle_steps is None else ""
            cure = "an even `cycle_epochs`, or " if epochs else ""
            neighbours = " or ".join(str(steps) for steps in (cycle_steps - 1, cycle_steps + 1) if steps)
            raise ValueError(
                f"A cycle must have an even number of iterations, to have its minimum after half of them. Received: "
                f"{cycle_steps}{epochs}. Use {cure}`cycle_steps={neighbours}`."
            )
        return cycle_steps // 2


class SnapshotEnsemble(CyclicEnsemble):
    """Snapshot Ensembles (SSE) as a callback of `model.fit`: cosine cycles, a snapshot at the end of each.

    The learning rate follows `keras_fge.cosine`. Usually the whole training consists of a few long cycles.

    Args:
        max_learning_rate: alpha_0, at the start of each cycle.
        cycle_epochs: Length of a cycle in epochs.
        cycle_steps: Length of a cycle in iterations, instead of `cycle_epochs`.
        start_epoch, validation_data, directory, resume: As for `FGE`.

    Raises:
        ValueError, OSError: As for `FGE`, but a cycle may have an odd number of iterations.

    References:
        Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, https://arxiv.org/abs/1704.00109
    """

    min_learning_rate = 0.0

    def __init__(
        self,
        max_learning_rate,
        cycle_epochs=None,
        cycle_steps=None,
        start_epoch=0,
        validation_data=None,
        directory=None,
        resume=False,
    ):
        if not max_learning_rate > 0:
            raise ValueError(f"`max_learning_rate` must be positive. Received: max_learning_rate={max_learning_rate}")
        super().__init__(cycle_epochs, cycle_steps, start_epoch, validation_data, directory, resume)
        self.max_learning_rate = max_learning_rate

    def learning_rate(self, step, cycle_steps):
        return cosine(step, self.max_learning_rate, cycle_steps)

    def position_of_minimum(self, cycle_steps):
        return cycle_steps


class Batches(keras.utils.PyDataset):
    """See `CyclicEnsemble.batches`."""

    def __init__(self, callback, x, y, batch_size, seed):
        super().__init__()
        # TensorFlow never lets go of a data set that Python feeds: it must not hold callback, network and optimizer.
        self.callback = weakref.proxy(callback)
        self.data, self.batch_size, self.seed = (x, y), batch_size, seed
        lengths = {len(array) for array in keras.tree.flatten(self.data)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"`x` and `y` must hold arrays of one length. Received: lengths {sorted(lengths)}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        self.samples = lengths.pop()
        self._epoch = None

    def __len__(self):
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index):
        if self._epoch != self.callback.epoch:
            self._epoch = self.callback.epoch
            self._order = np.random.default_rng((self.seed, self._epoch)).permutation(self.samples)
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.data)


def losses_from_logits(model):
    """`from_logits` of an `Ensemble`, from the compiled losses: one value, or a list if there are several."""
    losses, names = model.loss, getattr(model, "output_names", None)
    if isinstance(losses, dict) and not isinstance(getattr(model, "output", None), dict):
        losses = [losses.get(name) for name in names]
    losses = keras.tree.flatten(losses)
    # One loss may stand for all outputs; the outputs of a class of one's own are not known before it is called.
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [None])
    widths = [None if output is None else output.shape[-1] for output in outputs]
    answers = [_takes_logits(loss, width) for loss, width in zip(losses, itertools.cycle(widths))]
    return answers[0] if len(answers) == 1 else answers


def _takes_logits(loss, width):
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
        return False if _is_of_probabilities(loss.__name__) else None
    if loss is not None and not isinstance(loss, keras.losses.Loss):
        raise ValueError(f"Say `ensemble(from_logits=True)`, `False` or `None`: the loss {loss!r} does not tell.")
    from_logits = getattr(loss, "from_logits", False if _is_of_probabilities(type(loss).__name__) else None)
    if from_logits and type(loss).__name__.startswith("Binary") and width not in (None, 1):
        raise ValueError(
            "Logits of several independent binary outputs are not supported: end the network with a sigmoid. "
            f"Received: loss={loss!r}, an output of width {width}"
        )
    return from_logits


def _is_of_probabilities(name):
    return "crossentropy" in name.lower() or "divergence" in name.lower()


def _make_train_function(model):
    """A compiled train function whose trace no other one shares.

    JAX finds the trace of an equal function again, and `model.train_step` always equals itself; hence the detour.
    """
    own, step = model.__dict__.get("train_step"), model.train_step
    model.train_step = lambda *args: step(*args)
    try:
        model.make_train_function(force=True)
    finally:
        del model.train_step
        if own is not None:
            model.train_step = own
    return model.train_function
