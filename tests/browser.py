"""A real Chromium for tests of pages: the machine's own, else installed where that is possible, else one line says how.

A page that no browser has opened is not tested, so a machine without one fails these tests instead of skipping them.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
INSTALL_S = 240.0  # one command; some 400 MB are loaded and unpacked
HOW = "no Chromium to test pages with: install one (apt install chromium, or .venv/bin/playwright install chromium)"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Fails the test in one line where there is none and none can be installed."""
    program = _found() or _installed()
    if program is None:
        pytest.fail(HOW, pytrace=False)
    # As root Chromium refuses to start with its sandbox; the pages are our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def _found() -> str | None:
    """A browser on PATH, or the one that playwright has installed for this user."""
    on_path = next((path for path in map(shutil.which, NAMES) if path), None)
    if on_path:
        return on_path
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@functools.cache  # one attempt a session
def _installed() -> str | None:
    """Install a browser: Debian's as root, else playwright's own."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium"]
        if _run(install) or (_run(["apt-get", "update", "--quiet"]) and _run(install)):
            return _found()
    _run([sys.executable, "-m", "playwright", "install", "chromium"])
    return _found()


def _run(command: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSTALL_S, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
