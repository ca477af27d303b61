"""The documentation as a site: every public name is there, the notebooks run, and the pages work in a browser."""

import functools
import http.server
import os
import pathlib
import subprocess
import sys
import threading
import urllib.request

import pytest

import curves
import keras_fge
from browsing import check_log, opened, resized
from conftest import slow_elsewhere

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs/api.md").read_text().splitlines()
    for package in (curves, keras_fge):
        for name in package.__all__:
            assert f"::: {getattr(package, name).__module__}.{name}" in text, name
    assert "::: keras_fge.cyclic.CyclicEnsemble" in text  # The options of FGE and SnapshotEnsemble.
    assert "::: keras_fge.outcome.outcome.Outcome" in text
    assert "::: keras_fge.outcome.comparison.Comparison" in text
    results = ("coverage.SetCoverage", "coverage.IntervalCoverage", "reliability.Reliability", "selective.Selective")
    assert all(f"::: keras_fge.ensemble.{name}" in text for name in results)
    assert sum(line.startswith(":::") for line in text) == len(curves.__all__) + len(keras_fge.__all__) + 7


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / {"curve": "curve.html", "ensemble": "run.html"}[path.stem]).exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Address of the site, built strictly: a broken link, or a name that is not there, is an error.

    (With `--quiet`, mkdocs would count no warnings.)
    """
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@slow_elsewhere
def test_the_site_in_a_browser(site, browser):
    from selenium.webdriver.common.by import By

    cut = (
        "return [...document.querySelectorAll('pre, pre > code')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    pages = [file.stem for file in ROOT.glob("docs/*.md") if file.stem != "index"]
    for page in ("", *(f"{name}/" for name in (*pages, "notebooks/curve", "notebooks/ensemble"))):
        opened(browser, f"{site}/{page}", 1280, "document.readyState === 'complete'")
        title = browser.find_element(By.TAG_NAME, "h1").text
        assert title and "404" not in title
        missing = [image for image in browser.find_elements(By.TAG_NAME, "img") if image.size["height"] == 0]
        assert not [image for image in missing if image.is_displayed()]
        for width in (1280, 375):
            resized(browser, width)
            drawn = [image.size["width"] for image in browser.find_elements(By.CSS_SELECTOR, ".md-typeset p > img")]
            assert all(size == 0 or size >= 640 for size in drawn)  # 0: the one for another colour of the page.
            assert browser.execute_script(cut) == 0, page
        check_log(browser)
    opened(browser, f"{site}/api/", 1280, "document.readyState === 'complete'")
    assert browser.find_elements(By.ID, "keras_fge.fge.FGE") and browser.find_elements(By.ID, "curves.connect.connect")


def test_formulas_of_the_site_are_typeset(site):
    for page in ("curves", "fge"):
        with urllib.request.urlopen(f"{site}/{page}/") as answer:
            text = answer.read().decode()
        assert text.count("<math") > 5 and "OFTHISPAGE" not in text and "$$" not in text
