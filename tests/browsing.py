"""A browser for tests of pages: Chromium without a window, with its driver (Debian: chromium-driver)."""

import os
import shutil
import time

import pytest


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window. `REQUIRE_BROWSER=1` makes it an error that there is none."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        assert not os.environ.get("REQUIRE_BROWSER"), "there is no chromium with its chromedriver"
        pytest.skip("there is no chromium with its chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield driver
    driver.quit()


def opened(browser, address, width, is_ready="document.body.dataset.ready === 'yes'"):
    """Opens a page in a window so wide, waits until it is ready, and sees that it is not wider than the window."""
    _resize(browser, width)
    browser.get(address)
    wait(lambda: browser.execute_script(f"return {is_ready}"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def resized(browser, width):
    """Makes the window so wide, and sees that the page is not wider."""
    _resize(browser, width)
    wait(lambda: browser.execute_script("return window.innerWidth") == width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def _resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not come to that"
        time.sleep(0.1)


def check_log(browser):
    """The console of the browser has no errors since it was looked at last."""
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
