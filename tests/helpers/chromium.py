"""A page in Debian's Chromium, without a window: what it says, and what it asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

LOAD_TIMEOUT_MS = 120_000
"""Of a machine that is busy with other tests."""


@dataclass
class Watched:
    """What a page did that it should not."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Any, file: Path, hash_: str = "") -> tuple[Any, Watched]:
    """The page of a file, watched from its first moment."""
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    watched = Watched()
    page.on("console", lambda message: watched.complaints.append(message.text))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("dialog", lambda dialog: watched.complaints.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: watched.requests.append(request.url))
    page.goto(f"file://{file}{hash_}", timeout=LOAD_TIMEOUT_MS)
    return page, watched
