"""The API page in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.brokers import eventually
from tests.browser.conftest import WAIT_MS, Watched
from tests.system.stack import ROOT, Stack
from tests.system.test_access import APP, write

pytestmark = pytest.mark.extended

OPTIONS = [
    {"color_scheme": "light", "viewport": {"width": 1200, "height": 900}},
    {"color_scheme": "dark", "viewport": {"width": 400, "height": 900}},
]
LIGHT, DARK = "rgb(250, 251, 252)", "rgb(42, 43, 44)"


def shown(page: Page) -> None:
    expect(page.get_by_role("heading", name="POST /predict").first).to_be_visible(timeout=WAIT_MS)


def try_predict(page: Page, answer: str) -> None:
    """Send POST /predict as it is filled in, and expect `answer` in the response that the page shows."""
    form = page.locator("rapi-doc api-request").first
    form.get_by_role("button", name="TRY", exact=True).click()
    expect(form.get_by_role("code").filter(has_text=answer)).to_be_visible(timeout=WAIT_MS)


def test_the_page_asks_for_a_key_and_sends_it_only_as_a_header(
    stack: Callable[..., Stack], watch: Callable[..., Watched], tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.toml", app=APP)
    system = stack(MODEL_PATH="examples.tabular:Iris", API_KEYS_FILE=keys, LOG_LEVEL="debug")
    system.gateway()
    system.worker()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 200, 30)
    watched = watch(system.url, path="/docs")
    page, urls = watched.page, list[str]()
    page.on("request", lambda request: urls.append(request.url))
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    watched.expect_fault("401")
    field.fill("another key")
    field.press("Enter")
    expect(page.get_by_role("status")).to_have_text("invalid API key")
    watched.expect_fault("401")
    field.fill(APP)
    field.press("Enter")
    shown(page)
    expect(field).to_be_hidden()
    try_predict(page, "setosa")
    page.get_by_role("button", name="CURL", exact=True).click()
    expect(page.get_by_text("authorization: Bearer YOUR_API_KEY")).to_be_visible()
    expect(page.get_by_text(APP)).to_have_count(0)
    page.reload()
    shown(page)
    page.get_by_role("button", name="Forget API key").click()
    expect(field).to_be_focused()
    watched.expect_fault("401")
    assert not [url for url in urls if APP in url]
    assert APP not in "".join(process.log.read_text() for process in system.processes)


@pytest.mark.parametrize("options", OPTIONS, ids=["light", "dark and narrow"])
def test_titles_are_method_and_path_and_the_page_follows_the_color_scheme(
    stack: Callable[..., Stack], watch: Callable[..., Watched], options: dict
) -> None:
    page = watch(stack(MODEL_PATH="simulated:base_ms=0,row_ms=0").up().url, path="/docs", **options).page
    shown(page)
    assert "POST /v2/models/{model}/infer" in page.locator("rapi-doc h2").all_inner_texts()
    dark = options["color_scheme"] == "dark"
    if options["viewport"]["width"] > 1000:  # a narrow page has no navigation
        assert "GET /readyz" in page.locator("rapi-doc .nav-bar-path").all_inner_texts()
    expect(page.locator("rapi-doc")).to_have_css("background-color", DARK if dark else LIGHT)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    try_predict(page, "simulated")
    page.emulate_media(color_scheme="light" if dark else "dark")
    expect(page.locator("rapi-doc")).to_have_css("background-color", LIGHT if dark else DARK)


def test_an_image_model_is_tried_with_a_file(stack: Callable[..., Stack], watch: Callable[..., Watched]) -> None:
    system = stack(MODEL_PATH="efficientnet_lite0", MAX_BATCH_SIZE=2)
    page = watch(system.up().url, path="/docs").page
    shown(page)
    with page.expect_file_chooser() as chooser:
        page.locator("rapi-doc .request-body-param-file").first.click()
    chooser.value.set_files(ROOT / "examples/cat.jpg")
    try_predict(page, "Egyptian cat")
