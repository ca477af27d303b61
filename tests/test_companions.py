"""The table "Beside other callbacks" of docs/fge.md: a test for each row, and the one rule for what is logged."""

import csv

import keras
import numpy as np
import pandas
import pytest
from keras import layers

import keras_fge
from conftest import SLOW_BUT_ON_TORCH
from keras_fge.core.keras_internals import random_states

pytestmark = SLOW_BUT_ON_TORCH
C = keras.callbacks
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 6)).astype("float32")
Y = np.argmax(X @ rng.normal(size=(6, 3)), axis=1)
VALIDATION = (X[60:], Y[60:])
METRICS = ["distance_from_start", "distance_from_last", "member_error", "ensemble_error", "ensemble_nll"]


def network(rate=0.1):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(callbacks, epochs=6, model=None, **options):
    model = model or network()
    options = {"verbose": 0, "validation_data": VALIDATION, **options}
    return model.fit(X[:60], Y[:60], 20, epochs=epochs, callbacks=callbacks, **options).history


def fge(**options):
    return keras_fge.FGE(**{"max_learning_rate": 0.1, "cycle_epochs": 2, **options})


# --- The rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_epoch", [0, 3])
def test_until_the_first_snapshot_metrics_are_those_of_the_network(start_epoch):
    seen = []

    class Look(C.Callback):
        def on_epoch_end(self, epoch, logs=None):
            probabilities = self.model.predict(VALIDATION[0], verbose=0)
            seen.append(keras_fge.classification_metrics(probabilities, VALIDATION[1]))

    callback = fge(start_epoch=start_epoch)
    history = fit([callback, Look()], 6)
    first = history["snapshots"].index(1)
    assert first == start_epoch
    for epoch in range(first):
        logged = {name: history[name][epoch] for name in METRICS}
        error, nll = (pytest.approx(seen[epoch][name], abs=1e-6) for name in ("error", "nll"))
        assert logged == {**dict.fromkeys(METRICS[:2], 0.0), "member_error": error, "ensemble_error": error,
                          "ensemble_nll": nll}  # fmt: skip
    for epoch in range(first, 6):
        snapshot = callback.snapshots[history["snapshots"][epoch] - 1]
        assert {name: history[name][epoch] for name in METRICS} == snapshot.metrics


def test_in_a_second_fit_too():
    callback, model = fge(cycle_epochs=4), network()
    fit([callback], 4, model)
    history = fit([callback], 4, model)
    assert history["snapshots"] == [1, 2, 2, 2] and history["distance_from_start"][0] == 0
    assert history["ensemble_nll"][1] == callback.snapshots[1].metrics["ensemble_nll"]


def test_what_is_measured_before_the_first_snapshot_changes_no_training(monkeypatch):
    ends = []
    for is_measured in (True, False):
        if not is_measured:
            monkeypatch.setattr("keras_fge.run.validation.Validation.measure_alone", lambda *args: {})
        keras.utils.set_random_seed(1)
        model = network()
        fit([fge(start_epoch=2, comparison=is_measured)], 6, model)
        ends.append([*model.get_weights(), *(np.asarray(v) for v in random_states()["numpy"][1:3])])
        ends[-1].append(np.asarray(random_states().get("torch", 0)))
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


# --- The rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"start_epoch": 3}, {"metrics": "compiled"}, {"validation_data": VALIDATION}])
def test_history_is_a_table(options):
    history = fit([fge(**options)], 6)
    table = pandas.DataFrame(history)
    assert len(table) == 6 and not table.isna().any(axis=None)
    assert all(isinstance(count, int) for count in history["snapshots"])


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_bar_shows_four_values(verbose, capsys):
    callback = fge(start_epoch=1)
    history = fit([callback], 4, verbose=verbose)
    ends = [line for line in capsys.readouterr().out.splitlines() if "ensemble_nll" in line]
    assert len(ends) == 4
    for line in ends:
        shown = [part.partition(":")[0] for part in line.split(" - ") if ":" in part]
        ours = [name for name in shown if name in ("learning_rate", "snapshots", *METRICS)]
        assert sorted(ours) == sorted(["learning_rate", "ensemble_error", "ensemble_nll", "member_error"])
    assert {"snapshots", *METRICS} < history.keys()


def test_csv_logger(tmp_path):
    fit([fge(start_epoch=2), C.CSVLogger(tmp_path / "log.csv")])
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and all(np.isfinite(float(row[name])) for row in rows for name in METRICS)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    fit([fge(), C.TensorBoard(tmp_path)], 2)
    assert list(tmp_path.rglob("events*"))


@pytest.mark.parametrize("with_logger", [False, True])
def test_early_stopping(with_logger, tmp_path):
    """It counts from the first epoch on, by the network itself, and goes on with the ensemble."""
    stop = C.EarlyStopping("ensemble_nll", mode="min", patience=5, min_delta=0.05)
    callback = fge(start_epoch=4)
    loggers = [C.CSVLogger(tmp_path / "log.csv")] * with_logger
    losses = fit([callback, *loggers, stop], 100, network(0.01))["ensemble_nll"]
    best, wait, expected = np.inf, 0, 0
    while wait < 5:
        wait = 0 if losses[expected] < best - 0.05 else wait + 1
        best = losses[expected] if not wait else best
        expected += 1
    assert len(losses) == expected < 100 and len(callback.snapshots) >= 2


def test_early_stopping_before_the_first_snapshot():
    stop = C.EarlyStopping("ensemble_nll", mode="min", patience=1, min_delta=10)
    with pytest.warns(UserWarning, match="collected no snapshot"):
        assert len(fit([fge(start_epoch=4), stop], 10)["loss"]) == 2


def test_model_checkpoint_keeps_the_network(tmp_path):
    kept = C.ModelCheckpoint(tmp_path / "best.keras", monitor="ensemble_nll", mode="min", save_best_only=True)
    history = fit([fge(), kept])
    assert kept.best == pytest.approx(min(history["ensemble_nll"]))
    assert isinstance(keras.saving.load_model(tmp_path / "best.keras"), keras.Sequential)


@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("kind", ["plateau", "scheduler"])
def test_callbacks_that_set_the_rate(kind, is_before):
    other = C.LearningRateScheduler(lambda epoch: 0.02 if epoch < 2 else 0.5)
    if kind == "plateau":
        other = C.ReduceLROnPlateau("loss", patience=1, factor=0.1, min_delta=10, min_lr=0.002)
    callback, model = fge(max_learning_rate=None, start_epoch=2), network(0.02)
    callbacks = [other, callback] if is_before else [callback, other]
    with pytest.warns(UserWarning, match=f"{type(other).__name__} does not change .*: FGE sets it from epoch 2 on"):
        fit(callbacks, 6, model)
    plain, own = fge(max_learning_rate=callback.max_learning_rate, start_epoch=2), network(0.02)
    fit([plain], 6, own)
    assert [s.learning_rate for s in callback.snapshots] == [s.learning_rate for s in plain.snapshots]
    # The rate with which the cycles began, by the order of the callbacks at the begin of epoch 2.
    expected = {"plateau": {False: 0.002, True: 0.002}, "scheduler": {False: 0.02, True: 0.5}}[kind][is_before]
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)


def test_keras_tuner(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")

    def build(parameters):
        return network(parameters.Choice("rate", [0.01, 0.1, 0.3]))

    objective = keras_tuner.Objective("ensemble_nll", "min")
    tuner = keras_tuner.RandomSearch(build, objective, max_trials=3, directory=tmp_path, project_name="x")
    tuner.search(X[:60], Y[:60], epochs=4, verbose=0, validation_data=VALIDATION, callbacks=[fge()])
    scores = [trial.score for trial in tuner.oracle.get_best_trials(3)]
    assert len(scores) == 3 and scores == sorted(scores) and np.isfinite(scores).all()


def test_optuna():
    optuna = pytest.importorskip("optuna")

    def objective(trial):
        callback = fge(max_learning_rate=trial.suggest_float("rate", 0.01, 0.3, log=True))
        fit([callback], 4)
        return callback.comparison["ensemble"]["nll"]

    study = optuna.create_study()
    study.optimize(objective, n_trials=2)
    assert np.isfinite(study.best_value)


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as active:
        fit([fge(), mlflow.keras.MlflowCallback()], 4)
    logged = mlflow.get_run(active.info.run_id).data.metrics
    assert {"ensemble_nll", "member_error"} <= {name.removeprefix("train/") for name in logged}


def test_weights_and_biases(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    monkeypatch.chdir(tmp_path)
    with wandb.init(mode="offline", dir=str(tmp_path)) as active:
        fit([fge(), WandbMetricsLogger()], 4)
        assert active.summary["epoch/ensemble_nll"] > 0
