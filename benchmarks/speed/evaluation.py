"""What a measurement costs: along a curve, on a plane, and of an ensemble, against the obvious loops."""

import contextlib

import keras
import numpy as np
from keras import ops

import curves
import keras_fge
from speed.training import compiled, images, network
from speed.turns import compared, take_turns

BATCHES = {"vgg16": (1, 1), "preresnet20": (2, 2)}  # Of train and test; others have 4.


def path(name, settings):
    """`evaluate_path` against the obvious loop, at 13 and 61 positions."""
    model, train, test = curve_and_data(name, settings)

    def ours(points):
        return lambda: curves.evaluate_path(
            model, train, test, points, batch_size=settings.batch_size, line=False, verbose=False
        )

    def loop(points):
        layer, copy = model.body, compiled(model.network_at(0.5), settings)
        return lambda: _obvious_loop(
            copy, (layer.weights_at(t) for t in np.linspace(0, 1, points)), train, test, settings
        )

    works, references = {}, {}
    for points in settings.points if name.startswith("small") else settings.points[:1]:
        works[f"loop, {points} points"] = loop(points)
        works[f"evaluate_path, {points} points"] = ours(points)
        references[f"evaluate_path, {points} points"] = f"loop, {points} points"
    return {"samples": [len(train[0]), len(test[0])], **compared(take_turns(settings.turns, works), references)}


def plane(name, settings):
    """`evaluate_plane` against the obvious loop, on 5 x 5 points."""
    model, train, test = curve_and_data(name, settings)
    copy = compiled(model.network_at(0.5), settings)
    trainable = {id(variable) for variable in copy.trainable_variables}
    corners = [model.weights_at(t) for t in (0.0, 0.5, 1.0)]
    grid = np.linspace(-0.2, 1.2, 5)

    def points():
        for a in grid:
            for b in grid:
                yield [
                    w_0 + a * (w_1 - w_0) + b * (w_2 - w_0) if id(variable) in trainable else w_0
                    for variable, w_0, w_1, w_2 in zip(copy.weights, *corners)
                ]

    works = {
        "loop": lambda: _obvious_loop(copy, points(), train, test, settings, predicts=False),
        "evaluate_plane": lambda: curves.evaluate_plane(
            model, train, test, num_points=5, batch_size=settings.batch_size, verbose=False
        ),
    }
    return {
        "samples": [len(train[0]), len(test[0])],
        **compared(take_turns(settings.turns, works), {"evaluate_plane": "loop"}),
    }


def curve_and_data(name, settings):
    """A curve between two new networks, and arrays to measure it on."""
    *ends, middle = [network(name, settings) for _ in range(3)]
    train, test = (images(settings, batches) for batches in BATCHES.get(name, (4, 4)))
    model = compiled(curves.connect(*ends, seed=settings.seed), settings)
    model.set_bend(1, middle)  # Not on the straight line, or there would be no plane.
    return model, train, test


def slightly_different(model, count):
    """The weights of so many members, all a little different."""
    return [[w + 0.001 * k for w in model.get_weights()] for k in range(count)]


def _obvious_loop(model, points, train, test, settings, predicts=True):
    """Sets the weights of each point, re-estimates BatchNormalization, evaluates train and test, and predicts test."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for weights in points:
        model.set_weights(weights)
        if norms:
            _reestimate(model, norms, train[0], settings.batch_size)
        for data in (train, test):
            model.evaluate(*data, batch_size=settings.batch_size, verbose=0)
        if predicts:
            model.predict(test[0], batch_size=settings.batch_size, verbose=0)


def _reestimate(model, norms, x, batch_size):
    """As one writes it in a few lines: passes in training mode that average the statistics of the batches."""
    momenta = [layer.momentum for layer in norms]
    total = [0.0] * (2 * len(norms))
    with contextlib.ExitStack() as stack:
        for layer, momentum in zip(norms, momenta):
            layer.momentum = 0.0
            stack.callback(setattr, layer, "momentum", momentum)
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            model(batch, training=True)
            values = [ops.convert_to_numpy(v) for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
            total = [a + v * len(batch) for a, v in zip(total, values)]
    variables = [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
    for variable, value in zip(variables, total):
        variable.assign(value / len(x))


def ensemble(name, settings):
    """Predictions of 2, 10 and 50 members, one after the other and as one model, against single predictions."""
    model = network(name, settings)
    x, _ = images(settings, BATCHES.get(name, (4, 4))[1])
    weights = slightly_different(model, max(settings.members))

    def single(count):
        return lambda: [model.predict(x, batch_size=settings.batch_size, verbose=0) for _ in range(count)]

    works, references = {}, {}
    for count in settings.members:
        members = keras_fge.Ensemble(network(name, settings), weights[:count], from_logits=True)
        works[f"{count} single predictions"] = single(count)
        works[f"Ensemble of {count}"] = lambda members=members: members.predict(x, settings.batch_size)
        references[f"Ensemble of {count}"] = f"{count} single predictions"
        if count <= 10:  # One program of 50 networks takes minutes to compile.
            whole = members.to_model()
            whole.compile(jit_compile=settings.jit_compile)
            works[f"to_model() of {count}"] = lambda whole=whole: whole.predict(
                x, batch_size=settings.batch_size, verbose=0
            )
            references[f"to_model() of {count}"] = f"{count} single predictions"
    return {"samples": len(x), **compared(take_turns(settings.turns, works), references)}
