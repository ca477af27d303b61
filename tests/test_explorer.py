"""The pages to look at in a browser: what is in them, and that they work in one (Chromium, if it is there)."""

import dataclasses
import json
import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest

import curves
import keras_fge
from browsing import check_log, opened, wait
from conftest import slow_elsewhere
from keras_fge.outcome.page import principal_components
from test_diagnosis import BUMP, path, plane

pytestmark = pytest.mark.once

pytest.importorskip("plotly")


def content(page):
    """What the page holds for its script."""
    text = pathlib.Path(page).read_text()
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)[1])


def test_a_page_shows_the_values_of_the_results(tmp_path):
    line = path(0.1 + BUMP, 10 + 80 * BUMP, num_bends=2)
    curve = path(0.1 + 0.01 * BUMP, 10 + BUMP, 9 + BUMP, line=line)
    file = tmp_path / "both.html"
    curves.explore({"Bezier curve": curve, "plane": plane(5, far=0.5)}, file)
    assert file.stat().st_size < 6e6
    head = file.read_text()[:20000]
    assert "the networks are connected" in head and "The grid is coarse" in head and "http" not in head
    panels = content(file)["panels"]
    titles = [
        "plane",
        "Train loss along the path",
        "Test error (%) along the path",
        "Two networks together, φ(0) and φ(t)",
    ]
    assert [panel["title"] for panel in panels] == titles
    contours = panels[0]["figures"]["test error (%) / contours"]
    assert contours["data"][0]["text"][1][2] == "x 5, y 2.5<br>test error (%): 18.75"
    # The marker follows the curve, and says the value of the plane there: bilinear, here the plane itself.
    marker = contours["markers"][0]
    assert marker["x"][30] == pytest.approx(5) and marker["y"][30] == pytest.approx(5)
    assert marker["text"][30] == "t = 0.500<br>test error (%): 25"
    first, second = panels[2]["figures"][""]["data"]
    assert first["name"] == "straight line" and first["line"]["dash"] == "dash"
    np.testing.assert_allclose(second["y"], 10 + BUMP, rtol=1e-4)
    np.testing.assert_allclose(panels[2]["figures"][""]["markers"][1]["y"][::3], 10 + BUMP, rtol=1e-4)


def test_planes_share_their_colours(tmp_path):
    high = plane(5)
    high.train["loss"] = 10 * high.train["loss"]
    curves.explore({"low": plane(5), "high": high}, tmp_path / "planes.html")
    bars = [
        panel["figures"]["train loss / contours"]["data"][0] for panel in content(tmp_path / "planes.html")["panels"]
    ]
    assert bars[0]["colorbar"] == bars[1]["colorbar"] and bars[0]["contours"] == bars[1]["contours"]


def test_values_that_are_not_finite(tmp_path):
    result = plane(5)
    result.train["loss"][1, 1] = np.nan
    result.to_html(tmp_path / "plane.html")
    surface = content(tmp_path / "plane.html")["panels"][0]["figures"]["train loss / surface"]
    assert surface["data"][0]["z"][1][1] is None and surface["data"][0]["z"][1][2] is not None


def test_a_plane_of_inner_bends_has_no_straight_line(tmp_path):
    inner = dataclasses.replace(plane(5), settings={"bends": [0, 1, 2], "num_bends": 4})
    for result, names in ((plane(5), ["straight line", "curve", "φ(0)", "bend 1", "φ(1)"]), (inner, None)):
        result.to_html(tmp_path / "plane.html")
        (panel,) = content(tmp_path / "plane.html")["panels"]
        for figure in panel["figures"].values():
            shown = [trace["name"] for trace in figure["data"][1:]]
            assert shown == (names or ["curve", "φ(0)", "bend 1", "bend 2"])


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="`results` must hold a PathResult or a PlaneResult"):
        curves.explore({"a": 3}, tmp_path / "page.html")
    with pytest.raises(ValueError, match="`results` must hold"):
        curves.explore({}, tmp_path / "page.html")
    with pytest.raises(ValueError, match="nothing to plot"):
        keras_fge.FGE(0.1).to_html(tmp_path / "page.html")


def test_principal_components_of_distances():
    points = np.random.default_rng(0).normal(size=(6, 5)) * [3, 2, 1, 0.1, 0.1]
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found, share = principal_components(distances)
    _, values, vectors = np.linalg.svd(points - points.mean(axis=0))
    np.testing.assert_allclose(np.abs(found), np.abs((points - points.mean(axis=0)) @ vectors[:2].T), rtol=1e-6)
    assert share == pytest.approx(np.sum(values[:2] ** 2) / np.sum(values**2))


@pytest.fixture(scope="module")
def run():
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fge = keras_fge.FGE(0.5, 0.05, cycle_steps=4)
    model.fit(x, y, epochs=4, verbose=0, validation_data=(x, y), callbacks=[fge])
    return fge, x, y


def test_tables(run):
    fge, x, y = run
    frame = fge.to_frame()
    assert list(frame.index) == [1, 2, 3] and list(frame["step"]) == [s.step for s in fge.snapshots]
    assert frame["ensemble_nll"][3] == fge.snapshots[2].metrics["ensemble_nll"]
    sizes = fge.ensemble().evaluate_sizes(x, y)
    assert sizes.to_frame()["nll"].tolist() == sizes["nll"].tolist() and sizes.to_frame().index.name == "members"
    result = path(0.1 + 0.01 * BUMP, 10 + BUMP, line=path(0.1 + BUMP, 10 + BUMP, num_bends=2))
    frame = result.to_frame()
    assert frame.groupby("path").size().to_dict() == {"Bezier curve": 21, "straight line": 21}
    np.testing.assert_array_equal(frame["train_loss"][21:], result.line.train["loss"])
    frame = plane(5).to_frame()
    at = frame[(frame["x"] == 2.5) & (frame["y"] == 7.5)]
    assert len(frame) == 25 and at["train_loss"].item() == 10


def test_show_opens_the_page(run, monkeypatch, capsys):
    fge, *_ = run
    uris = []
    monkeypatch.setattr("webbrowser.open", uris.append)
    fge.show()
    file = pathlib.Path(capsys.readouterr().out.strip())
    assert uris == [file.as_uri()] and content(file)["texts"][0] == "start"
    path(0.1 + 0.01 * BUMP, 10 + BUMP).show()
    plane(5).show()
    assert len(uris) == 3


def test_show_in_a_notebook_is_in_the_cell(run, monkeypatch, capsys):
    shell, shown = types.SimpleNamespace(kernel=True), []
    display = types.SimpleNamespace(HTML=lambda text: text, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("webbrowser.open", lambda uri: pytest.fail("a browser was opened"))
    run[0].show()
    assert len(shown) == 1 and shown[0].startswith("<iframe srcdoc=") and "principal component" in shown[0]
    assert capsys.readouterr().out == ""


def test_what_a_run_shows(run, tmp_path):
    fge, *data = run
    lines = str(fge).splitlines()
    assert lines[0] == repr(fge) and any(line.startswith("The ensemble of 3 has a validation error") for line in lines)
    assert any("On 96 validation samples: last network" in line for line in lines)
    sizes = fge.ensemble().evaluate_sizes(*data)
    shown = [fge, fge.ensemble(), sizes, fge.comparison]
    for part, text in zip(shown, ["<li>The ensemble of 3", "<b>Ensemble(3 members", "<th>brier</th>", "last network"]):
        page = part._repr_html_()
        assert text in page
        assert page.count("<tr>") == 4 and ("data:image/png;base64," in page) is (part is not fge.comparison)
    last = fge.snapshots[2].metrics
    for part in (fge, fge.ensemble()):
        row = part._repr_html_().split("<tr>")[-1]
        assert f"<th>3</th><td>10</td><td>{last['distance_from_start']:.4g}</td>" in row
    assert f"<td>{sizes['nll'][0]:.4g}</td>" in sizes._repr_html_().split("<tr>")[2]
    fge.to_html(tmp_path / "run.html")
    shown = content(tmp_path / "run.html")
    assert shown["texts"] == ["start", *[f"member {k}, iteration {s.step}" for k, s in enumerate(fge.snapshots, 1)]]
    path, start = shown["panels"][0]["figures"][""]["data"]
    for k, snapshot in enumerate(fge.snapshots, 1):  # Two weights and more members than that: not all of the distance.
        far = np.hypot(path["x"][k] - start["x"][0], path["y"][k] - start["y"][0])
        assert far <= snapshot.metrics["distance_from_start"] * (1 + 1e-4)
    panels = {panel["title"]: panel["figures"][""] for panel in shown["panels"]}
    assert list(panels)[-2:] == ["Reliability", "Refusing what is least sure"]
    rates = panels["Learning rate"]
    assert rates["data"][0]["y"][:4] == pytest.approx([0.275, 0.05, 0.275, 0.5])
    assert rates["markers"][0]["y"][1:] == pytest.approx([0.05] * 3)


# --- In a browser -----------------------------------------------------------------------------------------------------


def marker_of(browser, index):
    """x of the marker, as plotly holds it."""
    return browser.execute_script(f"return document.getElementById('plot-{index}').data.at(-1).x[0]")


@slow_elsewhere
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_of_curves_in_a_browser(browser, tmp_path, width):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    line = path(0.1 + BUMP, 10 + 80 * BUMP, num_bends=2)
    file = tmp_path / "page.html"
    curves.explore({"Bezier curve": path(0.1 + 0.01 * BUMP, 10 + BUMP, line=line), "plane": plane()}, file)
    opened(browser, file.as_uri(), width)
    assert marker_of(browser, 0) == 1 and marker_of(browser, 1) == 0
    # The controls stay in sight. On a phone the first thing below the title is a picture.
    places = [browser.find_element(By.CSS_SELECTOR, name).rect for name in ("#plot-0", ".sentences", ".controls")]
    picture, sentences, controls = ({**place, "end": place["y"] + place["height"]} for place in places)
    assert controls["end"] <= 901 and (controls["x"] > picture["x"] + picture["width"]) is (width == 1280)
    assert picture["y"] < 120 + 100 * (width == 1280) and (sentences["y"] > picture["end"]) is (width == 375)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".sentences li")) <= 2
    slider = browser.find_element(By.ID, "slider")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 6)  # By the keyboard: t = 0.1 on the plane and on the paths.
    wait(lambda: marker_of(browser, 1) == 0.1)
    assert browser.find_element(By.ID, "place").text == "t = 0.1"
    assert marker_of(browser, 0) == pytest.approx(1.8)

    Select(browser.find_element(By.NAME, "colour")).select_by_visible_text("test error (%)")
    bar = "return document.getElementById('plot-0').data[0].colorbar.title.text"
    wait(lambda: browser.execute_script(bar) == "test error (%)")
    assert marker_of(browser, 0) == pytest.approx(1.8)  # It stays where it was.
    Select(browser.find_element(By.NAME, "view")).select_by_visible_text("surface")
    wait(lambda: browser.execute_script("return document.getElementById('plot-0').data[0].type") == "surface")
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#plot-0 canvas"))

    plot = browser.find_element(By.CSS_SELECTOR, "#plot-2 .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    hover = "return [...document.querySelectorAll('#plot-2 .hoverlayer text')].map(e => e.textContent).join(' ')"

    def text_under(offset):
        ActionChains(browser, duration=10).move_to_element_with_offset(plot, offset, 0).perform()
        return browser.execute_script(hover)

    half = plot.size["width"] // 2 - 4
    assert any(re.search(r"t = 0\.\d+.*straight line: \d+", text_under(x)) for x in range(-half, half, 4))
    check_log(browser)


@slow_elsewhere
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_of_a_run_in_a_browser(run, browser, tmp_path, width):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    fge, *_ = run
    fge.to_html(tmp_path / "run.html")
    opened(browser, (tmp_path / "run.html").as_uri(), width)
    browser.find_element(By.ID, "slider").send_keys(Keys.END)
    last = fge.snapshots[-1].step
    wait(lambda: browser.find_element(By.ID, "place").text == f"member 3, iteration {last}")
    wait(lambda: marker_of(browser, 1) == last)
    check_log(browser)
