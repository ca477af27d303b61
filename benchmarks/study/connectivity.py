"""Curves between independent networks: their training, the paths along them, and the planes around them.

An experiment is a list of units, whose functions make, train and measure; the values that they return are recorded.
"""

import functools

import keras

import curves
import keras_fge
from inputs.rows import CurveOnRows
from study.ensembles import all_metrics, run_ind
from study.training import compile_model, train, trained_network
from study.units import Unit

# --- The experiments --------------------------------------------------------------------------------------------------


def endpoint(study):
    """Trains the networks of curves and planes: two endpoints, and one more for planes. They are the first of Ind."""
    return [Unit("ind", (seed,), run_ind) for seed in end_seeds(study)]


def curve(study):
    """Trains the curves between the first two networks."""
    ends = tuple(endpoint(study))
    return [Unit("curve", (name,), measure_curve, needs=ends) for name in study.settings.curves]


def path(study):
    """Measures loss and error along the straight line and the curves."""
    trained = tuple(curve(study))
    return [Unit("path", (name,), measure_path, needs=trained) for name in ("line", *study.settings.curves)]


def plane(study):
    """Measures loss and error in the planes of three independent networks, of the Bezier curve, and of the chain."""
    own = [name for name in ("bezier", "chain") if name in study.settings.curves and study.settings.num_bends == 3]
    names = ["independent", *own]
    trained = tuple(curve(study))
    if not study.settings.plane_points:
        return list(trained)
    return [Unit("plane", (name,), measure_plane, needs=trained) for name in names]


# --- Networks and curves ----------------------------------------------------------------------------------------------


def end_seeds(study):
    return range(study.settings.seed, study.settings.seed + (3 if study.settings.plane_points else 2))


@functools.lru_cache(maxsize=3)
def end_network(study, index):
    """One of the networks that all curves and planes are made from."""
    return trained_network(study, end_seeds(study)[index])


def straight_line(study):
    line = curves.connect(end_network(study, 0), end_network(study, 1), curves.PolygonalChain(2))
    compile_model(line, study.settings, study.settings.curve_learning_rate)
    return line


def trained_curve(study, name):
    """Returns (CurveModel, its History), and finishes the training first if necessary."""
    settings = study.settings
    ends = end_network(study, 0), end_network(study, 1)
    kind = curves.Bezier if name.startswith("bezier") else curves.PolygonalChain
    objective = "arc_length" if name.endswith("by_length") else "uniform"
    keras.utils.set_random_seed(settings.seed)
    # The networks bring their own weight decay.
    arguments = {"objective": objective, "seed": settings.seed}
    model = curves.connect(*ends, kind(settings.num_bends), **arguments)
    if settings.images_on_device:
        model = CurveOnRows(model.body, **arguments)
    compile_model(model, settings, settings.curve_learning_rate)
    epochs, rate, folder = settings.curve_epochs, settings.curve_learning_rate, study.checkpoint("curve", name)
    with study.locked(f"training {name}"), study.progress.task(f"curve {name}", epochs) as ticker:
        history = train(model, settings, study.data, epochs, rate, settings.seed, folder, [ticker])
    return model, history


# --- Measurements -----------------------------------------------------------------------------------------------------


def measure_curve(study, name):
    """Metrics of the training, and of the network in the middle of the curve."""
    model, history = trained_curve(study, name)
    middle = model.network_at(0.5)
    curves.update_batch_norm(middle, study.data.train)
    ensemble = keras_fge.Ensemble(middle, [keras_fge.Snapshot.of(middle)], from_logits=True)
    splits = study.data.splits.items()
    return {
        "train_loss": history.history["loss"][-1],
        "train_error": 1 - history.history["accuracy"][-1],
        "arc_length": model.arc_length(),
        "middle": {split: all_metrics(ensemble.predict(x, batch_size=1000), y) for split, (x, y) in splits},
    }


def measure_path(study, name):
    model = straight_line(study) if name == "line" else trained_curve(study, name)[0]
    file, points = study.path(f"path_{name}.npz"), study.settings.num_points
    with study.progress.task(f"path {name}"):
        result = curves.evaluate_path(
            model, study.data.train, study.data.test, points, **subsets(study), file=file, verbose=False, line=False
        )
    ends = {"train_loss": result.train["loss"][[0, -1]], "test_error": result.test["error"][[0, -1]]}
    return {**result.summary(), **{f"{quantity}_ends": values.tolist() for quantity, values in ends.items()}}


def measure_plane(study, name):
    if name == "independent":  # The endpoints are w_0 and w_2, as in the planes of their curves.
        networks = [end_network(study, index) for index in (0, 2, 1)]
    else:
        networks = trained_curve(study, name)[0]
    arguments = {"num_points": study.settings.plane_points, "file": study.path(f"plane_{name}.npz"), **subsets(study)}
    with study.progress.task(f"plane {name}"):
        result = curves.evaluate_plane(networks, study.data.train, study.data.test, **arguments, verbose=False)
    return result.summary()


def subsets(study):
    """The numbers of images that paths and planes are measured on, and the batch size."""
    return {
        "train_samples": study.settings.train_samples or None,
        "bn_samples": study.settings.bn_samples or None,
        "batch_size": study.settings.eval_batch_size,
    }
