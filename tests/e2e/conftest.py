"""A browser and two running pages: one over the scripted studio, one over the real studio in a temporary home."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.fake_studio import ClockFile

expect.set_options(timeout=20_000)  # several browsers and models may share two cores
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def served(command: list[str], port: int, environment: dict[str, str], log: Path) -> Iterator[str]:
    with log.open("wb") as said:  # a pipe that nobody reads would stop the page once it is full
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=said, stderr=subprocess.STDOUT
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 150
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=20).read()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the page did not start: {log.read_text()}") from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def clock_file(tmp_path_factory: pytest.TempPathFactory) -> ClockFile:
    return ClockFile(tmp_path_factory.mktemp("clock") / "now")


@pytest.fixture
def clock(clock_file: ClockFile) -> Iterator[ClockFile]:
    """The scripted studio's clock, to be held and turned by hand; it goes by itself again after the test."""
    yield clock_file
    clock_file.let_go()


@pytest.fixture(scope="session")
def fake_url(clock_file: ClockFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("fake-page") / "log"
    command = [sys.executable, "-m", "tests.fake_studio", str(port), str(clock_file.path)]
    yield from served(command, port, {}, log)


@pytest.fixture(scope="session")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (ROOT / "assets" / "demo" / "models").is_dir():
        pytest.skip("the demo checkpoints are not built; make demo builds them")
    port, home = free_port(), tmp_path_factory.mktemp("studio-home")
    environment = {"PORT": str(port), "STUDIO_HOME": str(home)}
    yield from served([sys.executable, "-m", "app"], port, environment, home / "page.log")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.strays, page.mistakes = [], []
    page.on("request", lambda request: page.strays.append(request.url))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    yield page
    context.close()
