"""A real Chromium, driven by Playwright: Debian's, or any other that is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser that lives as long as the block. Skips where none is installed, unless PRELUDE_BROWSER=required."""
    api = pytest.importorskip("playwright.sync_api")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    with api.sync_playwright() as play:
        if found is None and not Path(play.chromium.executable_path).exists():
            message = "no Chromium is installed (apt-get install chromium, or playwright install chromium)"
            assert os.environ.get("PRELUDE_BROWSER") != "required", message
            pytest.skip(message)
        chrome = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chrome
        chrome.close()
