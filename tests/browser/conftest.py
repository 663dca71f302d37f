"""A real browser, Debian's Chromium, driven by Playwright. Whatever a page logs as an error, or requests from another
address than its own server's, fails the test that looks at it.

These tests are plain functions: Playwright's own event loop runs in this thread while there is a browser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.conftest import stack  # noqa: F401

WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # Root has no sandbox, and containers often have a small /dev/shm.
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=binary, args=arguments)
        yield browser
        browser.close()


class Watched:
    """A page and the faults that its browser logged."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self._asked(request.url))
        self.url = url

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "blob:")):
            self.faults.append(f"requested {url}")

    def expect_fault(self, text: str) -> None:
        """The browser logs each response that isn't a 2xx; this one is expected."""
        assert any(text in fault for fault in self.faults), self.faults
        self.faults = [fault for fault in self.faults if text not in fault]


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """`watch(url, **options)` opens the live page of a gateway in a window of its own."""
    opened: list[Watched] = []

    def open_page(url: str, **options) -> Watched:
        page = browser.new_context(**options).new_page()
        watched = Watched(page, url)
        opened.append(watched)
        page.goto(f"{url}/")
        return watched

    yield open_page
    faults = [fault for each in opened for fault in each.faults]
    for each in opened:
        each.page.context.close()
    assert faults == []
