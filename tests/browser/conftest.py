"""A real browser (Debian's Chromium), driven by Playwright.

A test fails if its page logs an error or sends a request to another server than its own. The tests are plain functions,
because Playwright's event loop runs in this thread.
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
    """A page and the errors that its browser logged."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self._on_request(request.url))
        self.url = url

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.url, "blob:")):
            self.faults.append(f"requested {url}")

    def expect_fault(self, text: str) -> None:
        """Accept one logged error: the browser logs each response that is not 2xx."""
        assert any(text in fault for fault in self.faults), self.faults
        self.faults = [fault for fault in self.faults if text not in fault]


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """`watch(url, **options)` opens a page of a gateway, by default the live page, in a new window."""
    opened: list[Watched] = []

    def open_page(url: str, path: str = "/", **options) -> Watched:
        page = browser.new_context(**options).new_page()
        watched = Watched(page, url)
        opened.append(watched)
        page.goto(f"{url}{path}")
        return watched

    yield open_page
    faults = [fault for each in opened for fault in each.faults]
    for each in opened:
        each.page.context.close()
    assert faults == []
