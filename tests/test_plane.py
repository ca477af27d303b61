"""Planes through three networks or bends against plain networks put there by hand."""

import html

import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, logits_loss, to_numpy, values

pytestmark = SLOW_BUT_ON_TORCH


def compiled(model):
    model.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"])
    return model


def vector(network):
    return np.concatenate([value.astype("float64").ravel() for value in values(network.trainable_variables)])


def fill(network, weights):
    for variable in network.trainable_variables:
        size = int(np.prod(variable.shape))
        variable.assign(weights[:size].reshape(variable.shape))
        weights = weights[size:]


def expected_at(point, vectors, train):
    """The plain network at (x, y), by an orthonormal basis in numpy."""
    along = vectors[2] - vectors[0]
    along = along / np.linalg.norm(along)
    across = vectors[1] - vectors[0]
    across = across - across @ along * along
    across = across / np.linalg.norm(across)
    network = compiled(batch_norm_network())
    fill(network, vectors[0] + point[0] * along + point[1] * across)
    curves.update_batch_norm(network, train, batch_size=25)
    return network.evaluate(*train, verbose=0, return_dict=True)


def test_three_networks():
    x, y = images()
    networks = [compiled(batch_norm_network()) for _ in range(3)]
    before = values(networks[0].variables)
    result = curves.evaluate_plane(
        networks, (x, y), (x[:20], y[:20]), num_points=(4, 3), margin=0.5, batch_size=25, verbose=False
    )
    vectors = [vector(network) for network in networks]
    distances = [np.linalg.norm(vectors[i] - vectors[k]) for i, k in ((0, 1), (0, 2), (1, 2))]
    summary = result.summary()
    assert [summary[name] for name in ("distance_01", "distance_02", "distance_12")] == pytest.approx(distances)
    assert result.vertices[0] == pytest.approx(0) and result.vertices[2] == pytest.approx([distances[1], 0])
    assert result.train["loss"].shape == (3, 4) and len(result.x) == 4 and len(result.y) == 3
    low, high = result.vertices.min(axis=0), result.vertices.max(axis=0)
    for grid, a, b in ((result.x, low[0], high[0]), (result.y, low[1], high[1])):
        assert (grid[0], grid[-1]) == pytest.approx((a - 0.5 * (b - a), b + 0.5 * (b - a)))
    for j, i in ((0, 0), (1, 2), (2, 3)):
        measured = expected_at((result.x[i], result.y[j]), vectors, (x, y))
        assert result.train["loss"][j, i] == pytest.approx(measured["loss"], rel=1e-3)
        assert result.train["error"][j, i] == pytest.approx(1 - measured["accuracy"], abs=1e-6)
    assert result.path.shape == (0, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(networks[0].variables)))


def test_vertices_on_the_grid_are_the_networks():
    x, y = images()
    networks = [compiled(batch_norm_network()) for _ in range(3)]
    result = curves.evaluate_plane(networks, (x, y), (x, y), num_points=2, margin=0, batch_size=25, verbose=False)
    for network, (j, i) in ((networks[0], (0, 0)), (networks[2], (0, 1))):
        curves.update_batch_norm(network, (x, y), batch_size=25)
        measured = network.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        assert (result.x[i], result.y[j]) == pytest.approx(result.vertices[2 if i else 0], abs=1e-6)
        assert result.train["loss"][j, i] == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize(
    ("curve", "bends"),
    [(curves.Bezier(3), None), (curves.PolygonalChain(4), (0, 2, 3))],
    ids=["bezier", "chain of four"],
)
def test_bends_of_a_curve(trained, curve, bends):
    start, end, x, y = trained
    model = compiled(curves.connect(start, end, curve, weight_decay=0.01))
    for index in range(1, curve.num_bends - 1):
        model.set_bend(index, batch_norm_network())
    model.t = 0.2
    before = values(model.variables)
    result = curves.evaluate_plane(model, (x, y), (x, y), bends, num_points=3, batch_size=25, verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(model.variables)))

    bend_vectors = [
        np.concatenate([to_numpy(v).astype("float64").ravel() for v in layer]) for layer in model.body.bends
    ]
    vectors = [bend_vectors[index] for index in bends or (0, 1, 2)]
    measured = expected_at((result.x[1], result.y[1]), vectors, (x, y))["loss"]
    along, up = vectors[2] - vectors[0], vectors[1] - vectors[0]
    basis = np.linalg.qr(np.stack([along, up], axis=1))[0]
    basis[:, 0] *= np.sign(basis[:, 0] @ along)
    basis[:, 1] *= np.sign(basis[:, 1] @ up)
    point = vectors[0] + basis @ [result.x[1], result.y[1]]
    assert result.train["loss"][1, 1] == pytest.approx(measured + 0.005 * point @ point, rel=1e-3)
    assert result.train["nll"][1, 1] < result.train["loss"][1, 1]
    for j, t in enumerate(np.linspace(0, 1, 61)):
        coefficients = to_numpy(curve.coefficients(t)).astype("float64")
        offset = sum(c * b for c, b in zip(coefficients, bend_vectors)) - vectors[0]
        assert result.path[j] == pytest.approx(offset @ basis, abs=1e-5)
        distance = np.linalg.norm(offset - basis @ (offset @ basis))
        assert result.path_distance[j] == pytest.approx(distance, abs=1e-5)
    assert (result.path_distance.max() < 1e-5) == (bends is None)


def plane():
    x, y = np.linspace(-1, 6, 15), np.linspace(-1, 4, 11)
    loss = 0.1 + (y[:, None] - 1) ** 2 + 0.1 * x[None, :] ** 2
    path = np.stack([np.linspace(0, 5, 61), np.zeros(61)], axis=1)
    return curves.PlaneResult(
        x, y, np.array([[0.0, 0], [2, 3], [5, 0]]), path, np.zeros(61), {"loss": loss}, {"error": loss / 50}, {"a": 1}
    )


def test_save_load_and_summary(tmp_path):
    plane().save(tmp_path / "plane.npz")
    loaded = curves.PlaneResult.load(tmp_path / "plane.npz")
    assert loaded.summary() == plane().summary() and loaded.settings == {"a": 1}
    assert loaded.summary()["distance_01"] == pytest.approx(np.sqrt(13))
    assert np.array_equal(loaded.path, plane().path)


def test_plot(tmp_path):
    figure = curves.plot_planes({"one": plane(), "two": plane()}, tmp_path / "plane.png", "test", "error")
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    axes, other, bar = figure.axes
    assert axes.get_title() == "one" and other.get_title() == "two"
    assert bar.get_ylabel() == "test error (%)"
    labels = [text.get_text() for text in bar.get_yticklabels()]
    assert labels[-1] == f"> {np.float64(labels[-1].removeprefix('> ')):.3g}"
    assert np.float64(labels[0]) == pytest.approx(100 * plane().test["error"].min(), rel=1e-2)
    excess = np.array([np.float64(label.removeprefix("> ")) for label in labels]) - np.float64(labels[0])
    steps = np.diff(np.log(excess[1:]))
    assert steps == pytest.approx(steps.mean(), rel=0.2)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "straight line",
        "curve",
        "endpoints",
        "bend",
    }
    constant = curves.PlaneResult(**{**vars(plane()), "train": {"loss": np.ones((11, 15))}})
    constant.plot()


def test_bad_arguments(trained):
    start, end, x, y = trained
    data = ((x, y), (x, y))
    model = curves.connect(start, end)
    with pytest.raises(ValueError, match="lie on one line"):
        curves.evaluate_plane(compiled(model), *data)
    with pytest.raises(ValueError, match="must be a CurveModel or three networks"):
        curves.evaluate_plane([start, end], *data)
    with pytest.raises(ValueError, match=r"`networks\[2\]` must be a keras.Model"):
        curves.evaluate_plane([start, end, 3], *data)
    with pytest.raises(ValueError, match="must have the same architecture"):
        wrong = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(1, 3)])
        curves.evaluate_plane([start, end, wrong], *data)
    frozen = [compiled(batch_norm_network()) for _ in range(3)]
    for network in frozen:
        network.layers[1].trainable = False
    with pytest.raises(ValueError, match=r"`networks\[0\]` and `networks\[1\]` differ in '.*kernel', which is frozen"):
        curves.evaluate_plane(frozen, *data)
    with pytest.raises(ValueError, match="`bends` are for a CurveModel"):
        curves.evaluate_plane([start, end, batch_norm_network()], *data, bends=(0, 1, 2))
    with pytest.raises(ValueError, match="must be compiled"):
        curves.evaluate_plane([batch_norm_network() for _ in range(3)], *data)
    chain = compiled(curves.connect(start, end, curves.PolygonalChain(4)))
    for bends in (None, (0, 1), (0, 1, 4), (0, 1, 1)):
        with pytest.raises(ValueError, match="`bends` must be three of the bends 0 to 3"):
            curves.evaluate_plane(chain, *data, bends=bends)
    model.set_bend(1, batch_norm_network())
    with pytest.raises(ValueError, match="`num_points` must be an integer of at least 2"):
        curves.evaluate_plane(model, *data, num_points=1)
    with pytest.raises(ValueError, match="`margin` must be at least 0"):
        curves.evaluate_plane(model, *data, margin=-1)


def test_plot_with_two_inner_bends_and_a_point_that_is_not_finite():
    def network(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])

    model = curves.connect(network(0), network(1), curves.Bezier(4))
    model.compile(loss="mse")
    for seed, bend in enumerate(model.body.bends[1:3]):
        for variable in bend:
            variable.assign(np.random.default_rng(seed).normal(size=variable.shape))
    data = np.ones((8, 2), "float32"), np.zeros((8, 3), "float32")
    result = curves.evaluate_plane(model, data, data, bends=(0, 1, 2), num_points=3, verbose=False)
    result.train["loss"][2, 1] = np.nan
    _, labels = result.plot().axes[0].get_legend_handles_labels()
    assert labels == ["curve", "bends", "endpoints"]  # No straight line: bend 2 is no end.


def test_what_a_curve_and_a_plane_say_of_themselves(trained):
    start, end, x, y = trained
    curve = curves.connect(start, end, fix_end=False, seed=0)
    curve.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"])
    curve.fit(x, y, epochs=1, verbose=0)
    size = sum(int(np.prod(v.shape)) for v in start.trainable_variables)
    assert repr(curve) == f"CurveModel(Bezier(num_bends=3) of '{curve.body.name}', {size} weights a bend, t=0.5)"
    fge = keras_fge.FGE(0.1)
    for shown in (curve, fge, keras_fge.Ensemble.of([start, end])):
        assert shown._repr_html_() == f"<p><b>{html.escape(repr(shown))}</b></p>"
    plane = curves.evaluate_plane(curve, (x, y), (x, y), num_points=2, verbose=False)
    first, *others = str(plane).splitlines()
    low, high = plane.train["loss"].min(), plane.train["loss"].max()
    assert first.startswith(f"On the plane (2 x 2 points): train loss {low:.3g} to {high:.3g} nat, test error ")
    assert any(line.startswith("The curve lies in the plane, up to a distance of ") for line in others)
    assert any(line.startswith("The statistics of BatchNormalization come from 50 samples") for line in others)
    assert repr(plane) == str(plane) and plane._repr_html_().startswith(f"<p><b>{first}</b></p>")


def test_further_paths_on_a_plane(trained, tmp_path):
    start, end, x, y = trained
    curve = curves.connect(start, end, seed=0)
    curve.compile(keras.optimizers.SGD(0.02), logits_loss(), metrics=["accuracy"])
    curve.fit(x, y, epochs=1, verbose=0)
    aligned = curves.align(end, start, verbose=False)
    others = {"line": curves.connect(start, end, curves.Bezier(2)), "aligned line": curves.connect(start, aligned)}
    arguments = {"num_points": 2, "file": tmp_path / "plane.npz", "verbose": False, "others": others}
    plane = curves.evaluate_plane(curve, (x, y), (x, y), **arguments)
    w = [np.concatenate([v.astype("float64").ravel() for v in values(bend)]) for bend in curve.body.bends]
    e_x = (w[2] - w[0]) / np.linalg.norm(w[2] - w[0])
    e_y = (w[1] - w[0]) - (w[1] - w[0]) @ e_x * e_x
    e_y /= np.linalg.norm(e_y)
    for name, other in others.items():
        for t, row in zip(np.linspace(0, 1, 61)[::20], plane.others[name][::20]):
            bends = [np.concatenate([v.astype("float64").ravel() for v in values(bend)]) for bend in other.body.bends]
            coefficients = np.asarray(values([other.curve.coefficients(t)])[0], "float64")
            point = coefficients @ np.stack(bends) - w[0]
            rest = point - point @ e_x * e_x - point @ e_y * e_y
            assert row == pytest.approx([point @ e_x, point @ e_y, np.linalg.norm(rest)], abs=1e-3)
    assert np.abs(plane.others["line"][:, 1:]).max() < 1e-3
    loaded = curves.PlaneResult.load(tmp_path / "plane.npz")
    assert all(np.array_equal(loaded.others[name], plane.others[name]) for name in others)
    figure = plane.plot()
    assert {"line", "aligned line"} <= set(figure.axes[0].get_legend_handles_labels()[1])
    with pytest.raises(ValueError, match="`others` must hold a curves"):
        curves.evaluate_plane(curve, (x, y), (x, y), others={"network": start})
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must have the architecture of `networks`"):
        curves.evaluate_plane(curve, (x, y), (x, y), others={"other": curves.connect(small, small)})
