"""The live page in a real browser."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from smartbatch.shared.keys import Keys
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from tests.brokers import Broker, eventually
from tests.browser.conftest import WAIT_MS, Watched
from tests.system.stack import ROOT, Stack
from tests.system.test_access import ADMIN, APP, MONITOR, write
from tests.system.test_batching import bodies, send_all

pytestmark = pytest.mark.extended

CAT = ROOT / "examples/cat.jpg"


@pytest.fixture
def simulated(stack: Callable[..., Stack]) -> Stack:
    system = stack(MODEL_PATH="simulated:base_ms=4,row_ms=1", MAX_BATCH_SIZE=8)
    return system.up()


def tile(page: Page, name: str) -> Locator:
    return page.locator("#tiles div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def is_live(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("Live", timeout=WAIT_MS)


def column(page: Page, table: str, number: int) -> list[str]:
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


SHOWN = """() => ({
    tiles: Object.fromEntries([...document.querySelectorAll("#tiles div")].map(
        (tile) => [...tile.children].map((part) => part.textContent))),
    outcomes: [...document.querySelectorAll("#outcomes tbody tr")].map((row) => row.cells[1].textContent),
    parts: document.querySelectorAll("#charts .plot")[3].getAttribute("aria-label"),
})"""


def test_page_numbers_follow_the_load(simulated: Stack, watch: Callable[..., Watched]) -> None:
    page = watch(simulated.url).page
    is_live(page)
    expect(tile(page, "Answered / s")).to_have_text("0")
    expect(page.locator("#partitions-section")).to_be_hidden()  # there is one
    with ThreadPoolExecutor(1) as elsewhere:  # Playwright's event loop runs in this one
        elsewhere.submit(asyncio.run, send_all(simulated.url, bodies(100), 16)).result()
    for _ in range(20):
        assert simulated.predict(b"x", params={"top_k": "many"}).status_code == 400

    def shown_once_current() -> dict | None:
        """Return what the page shows once it matches /stats."""
        stats, shown = simulated.stats(), page.evaluate(SHOWN)
        if shown["outcomes"] != ["100", "0", "0", "20", "0", "0", "0"] or not stats["latency_ms"]["p50"]:
            return None
        shown_ms = [float(shown["tiles"][f"{p}, ms"]) for p in ("p50", "p95", "p99")]
        return shown if shown_ms == pytest.approx(list(stats["latency_ms"].values()), rel=0.01) else None

    shown = eventually(shown_once_current, 15, 0.1)
    assert shown["tiles"]["Answered / s"] == "10"  # 100 in 10 s
    assert (shown["tiles"]["Client errors / s"], shown["tiles"]["Rejected / s"]) == ("2", "0")
    expect(page.locator("#banner li")).to_have_text([re.compile(r"^17 % client errors: bad_request\. ")])
    expect(page.locator("#banner li")).to_have_attribute("data-level", "note")
    assert shown["parts"].startswith("Chart: Mean time per part of a request")
    assert float(re.findall(r"forward ([\d.]+)", shown["parts"])[0]) > 4
    # A worker's counts come with its heartbeat.
    batches = eventually(lambda: column(page, "workers", 6) == ["100"] and int(column(page, "workers", 7)[0]))
    eventually(lambda: sum(map(int, column(page, "rows", 4))) == batches)
    assert sum(map(int, column(page, "closed", 4))) == batches
    page.locator("#charts").get_by_text("As a table").nth(0).click()
    newest = page.get_by_role("table", name=re.compile("^Requests per second")).locator("tbody tr").first
    expect(newest.get_by_role("rowheader")).to_have_text("0")
    # The rate falls to zero after the load.
    expect(tile(page, "Answered / s")).to_have_text("0", timeout=WAIT_MS)
    expect(page.locator("#last-window")).to_have_text(re.compile(r"^(9|10)"))


def test_photo_prediction_by_keyboard_only(stack: Callable[..., Stack], watch: Callable[..., Watched]) -> None:
    system = stack(MODEL_PATH="efficientnet_lite0", MAX_BATCH_SIZE=2, WINDOW="fixed")
    page = watch(system.up().url).page
    page.on("filechooser", lambda chooser: chooser.set_files(CAT))
    is_live(page)
    box = page.locator("#photo-box")
    expect(box).to_be_visible()  # from the event after the worker has announced the model
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "photo":
            break
    expect(box).to_have_css("outline-style", "solid")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Egyptian cat, 76 %.")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("img", name="The image that was sent: cat.jpg")).to_be_visible()
    expect(page.locator("#prediction li")).to_have_count(5)
    parts = column(page, "timeline-table", 1)
    assert parts == ["Admit", "Queue", "Decode", "Batch wait", "Forward", "Reply", "Total"]
    *times, total = [float(text) for text in column(page, "timeline-table", 2)]
    assert sum(times) == pytest.approx(total, rel=0.02)
    facts = dict(
        zip(page.locator("#batch dt").all_inner_texts(), page.locator("#batch dd").all_inner_texts(), strict=True)
    )
    assert facts["Size"] == "1 row of 1 request"
    assert facts["Position"] == "1st of 1"
    assert facts["Close reason"].startswith("window: ")
    assert facts["Batch"].startswith(facts["Worker"])
    assert page.evaluate("document.activeElement.id") == "photo"  # updates do not move the focus
    expect(page.locator("#text-box")).to_be_hidden()


def test_the_nearest_examples_of_a_text_are_shown(stack: Callable[..., Stack], watch: Callable[..., Watched]) -> None:
    page = watch(stack(MODEL_PATH="minilm", MAX_BATCH_SIZE=8, TORCH_THREADS=1).up().url).page
    text = page.locator("#text")
    expect(text).to_have_value("a kitten", timeout=WAIT_MS)
    for given, best in (("a kitten", "A cat sleeps on"), ("I can't log in any more", "How do I reset my password")):
        text.fill(given)
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#status")).to_have_text(
            re.compile(rf"^Nearest: {best}.* [\d.]+ ms, in a batch of 8 rows\.$")
        )
        expect(page.locator("#prediction li")).to_have_count(7)
        expect(page.locator("#prediction li").first).to_contain_text(re.compile(rf"^{best}.*0\.[3-9]\d$"))


def test_model_without_photo_input_shows_a_text_box(
    simulated: Stack, broker: Broker, watch: Callable[..., Watched]
) -> None:
    for info in (
        ModelInfo("iris", "x", InputSpec(("tensor",), "float32", (2, 2)), 8),
        ModelInfo("words", "x", InputSpec(("text",)), 8),
        ModelInfo("eyes", "x", InputSpec(("image", "tensor"), "uint8", (3, 2, 2)), 8),
        ModelInfo(
            *("mixed", "x", InputSpec(("inputs",)), 8),
            inputs=(InputSpec(("text",), name="words"), InputSpec(("tensor",), "float32", (2,), "numbers")),
        ),
    ):
        broker.sync.hset("smartbatch:models", info.name, encode(info))
    watched = watch(simulated.url)
    page = watched.page
    photo, text = page.locator("#photo-box"), page.locator("#text")
    expect(page.locator("#model option")).to_have_count(6)
    expect(page.locator("#try")).to_be_hidden()  # all models
    page.locator("#model").select_option("iris")
    expect(photo).to_be_hidden()
    expect(text).to_have_value('{"data":[[[0,0],[0,0]]]}')
    expect(page.locator("#text-label")).to_have_text("JSON")
    page.locator("#model").select_option("words")
    expect(text).to_have_value("a text")
    expect(page.locator("#text-label")).to_have_text("Text")
    page.locator("#model").select_option("mixed")
    expect(photo).to_be_hidden()
    expect(text).to_have_value('{"inputs":{"words":["a text"],"numbers":[[0,0]]}}')
    page.locator("#model").select_option("eyes")
    expect(photo).to_be_visible()
    expect(text).to_be_hidden()
    page.locator("#model").select_option("simulated")
    text.fill("hello")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text(re.compile(r"^Done\. [\d.]+ ms, in a batch of 1 row\.$"))
    expect(page.locator("#prediction pre")).to_contain_text('{"output":{"dtype":"float32","shape":[1,10],"data":')
    # An error shows the server's detail.
    page.locator("#model").select_option("iris")
    text.fill('{"data": [[1]]}')
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#status")).to_have_text(re.compile("^422 Invalid input: the model takes"))
    watched.expect_fault("422")


def test_api_key_is_requested_and_kept_in_the_tab(
    stack: Callable[..., Stack], watch: Callable[..., Watched], tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.toml", app=APP, boss=f"{ADMIN};role='admin'", prometheus=f"{MONITOR};role='monitor'")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=keys)
    system.gateway()
    watched = watch(system.url)
    page = watched.page

    def give(key: str) -> None:
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_role("button", name="Use key").click()

    expect(page.locator("#connection")).to_have_text("Not live: an API key is required")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    give("wrong")
    expect(page.locator("#key-title")).to_contain_text("invalid API key")
    give(MONITOR)
    is_live(page)
    expect(page.locator("#key-section")).to_be_hidden()
    expect(page.locator("#tiles")).to_be_visible()
    expect(page.locator("#try")).to_be_hidden()  # this key may not send requests
    page.reload()
    is_live(page)
    expect(page.locator("#try")).to_be_hidden()
    page.get_by_role("button", name="Forget API key").click()
    give(APP)
    expect(page.locator("#connection")).to_have_text("No statistics: this key may only run models")
    expect(page.locator("#tiles")).to_be_hidden()
    expect(page.locator("#overview")).to_be_hidden()
    expect(page.locator("#try")).to_be_hidden()  # no worker has announced a model
    system.worker()
    expect(page.get_by_label("Text")).to_be_visible(timeout=3 * WAIT_MS)  # once the worker is ready, without a reload
    page.get_by_label("Text").fill("hello")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#status")).to_contain_text("Done.")
    page.get_by_role("button", name="Forget API key").click()
    give(ADMIN)
    is_live(page)
    expect(tile(page, "Workers ready")).to_have_text("1", timeout=WAIT_MS)
    assert page.evaluate("[localStorage.length, document.cookie, location.href]") == [0, "", f"{system.url}/"]
    for status in ("401", "403"):
        watched.expect_fault(status)


def test_management_port_shows_numbers_and_names_the_inference_port(
    stack: Callable[..., Stack], watch: Callable[..., Watched]
) -> None:
    system = stack(MODEL_PATH="simulated", MANAGEMENT_PORT=0)
    gateway = system.gateway()
    management = re.findall(r"management on (\S+)", gateway.log.read_text())[0]
    page = watch(management).page
    is_live(page)
    expect(page.get_by_text("This page is served on MANAGEMENT_PORT")).to_be_visible()
    expect(page.locator("#photo-box")).to_be_hidden()
    expect(page.locator("#text-box")).to_be_hidden()
    expect(page.get_by_text("No live workers.")).to_be_visible()
    assert [system.client.get(f"{system.url}{path}").status_code for path in ("/", "/live/events")] == [404, 404]


def test_page_reconnects_after_a_gateway_restart_and_stops_when_paused(
    simulated: Stack, watch: Callable[..., Watched]
) -> None:
    watched = watch(simulated.url)
    page = watched.page
    is_live(page)
    gateway = simulated.processes[0]
    assert gateway.stop(signal.SIGTERM, timeout_s=15) == 0  # an open stream does not delay the shutdown
    expect(page.locator("#connection")).to_contain_text("Not live")
    expect(page.locator("#main")).to_have_class(re.compile("stale"))
    simulated.gateway(PORT=simulated.url.rpartition(":")[2])
    is_live(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_have_text("Paused")
    page.get_by_role("button", name="Pause").click()
    is_live(page)
    watched.faults = [fault for fault in watched.faults if "ERR_" not in fault]  # while the stream was closed


def test_page_is_accessible_in_light_dark_and_phone_layouts(simulated: Stack, watch: Callable[..., Watched]) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {**phone, "reduced_motion": "reduce"}):
        page = watch(simulated.url, **options).page
        is_live(page)
        page.get_by_label("Text").fill("hello")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#result")).to_be_visible()
        for summary in page.locator("#charts").get_by_text("As a table").all():
            summary.click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for landmark in ("banner", "main", "contentinfo"):
            expect(page.get_by_role(landmark)).to_have_count(1)
        moves = page.locator("#rows i").first.evaluate("bar => getComputedStyle(bar).transitionDuration")
        assert moves == ("0s" if "reduced_motion" in options else "0.3s")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 26)" if options.get("color_scheme") == "dark" else "rgb(246, 247, 249)"
        )


def test_page_opens_with_the_history_of_before(simulated: Stack, watch: Callable[..., Watched]) -> None:
    def send() -> None:
        for _ in range(20):
            assert simulated.predict(b"x").status_code == 200

    send()
    eventually(lambda: simulated.stats()["throughput_rps"] == 2.0)
    time.sleep(3)
    send()  # so the rate is 2 to 4 for at least 13 s, and a row of the table, one every 10 s, can't miss it
    eventually(lambda: simulated.stats()["throughput_rps"] == 0.0, 20)
    page = watch(simulated.url).page
    is_live(page)
    page.locator("#charts").get_by_text("As a table").nth(0).click()
    table = page.get_by_role("table", name=re.compile("^Requests per second"))
    answered = table.locator("tbody tr > :nth-child(2)")  # filled soon after the click
    expect(answered.filter(has_text=re.compile(r"^[234](\.|$)"))).not_to_have_count(0)


def test_padding_and_predicted_seconds_are_shown_of_a_model_whose_rows_have_sizes(
    stack: Callable[..., Stack], watch: Callable[..., Watched]
) -> None:
    system = stack(MODEL_PATH="tests/system/texts_model.py:Texts").up()
    page = watch(system.url).page
    is_live(page)
    sizes = page.locator("#sizes")
    expect(sizes).to_be_hidden()
    assert system.predict(b"a text").status_code == 200
    expect(sizes).to_have_text(
        re.compile(r"^Padded size 1 × the real one; forwards took [\d.]+ s, predicted [\d.]+ s\.$"), timeout=WAIT_MS
    )
    expect(sizes).to_be_hidden(timeout=2 * WAIT_MS)  # none of the last seconds


def test_banner_names_the_reason_of_rejections_and_a_missing_worker(
    stack: Callable[..., Stack], watch: Callable[..., Watched]
) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=500,row_ms=0", MAX_BATCH_SIZE=1, MAX_QUEUE=2)
    system.gateway()
    page = watch(system.url).page
    banner = page.locator("#banner li")
    expect(banner).to_have_text(["No worker is ready. Requests wait until one is: start smartbatch worker."])
    expect(banner).to_have_attribute("data-level", "bad")
    system.worker()
    expect(banner).to_have_count(0, timeout=WAIT_MS)
    with ThreadPoolExecutor(16) as clients:
        codes = [response.status_code for response in clients.map(lambda n: system.predict(b"%d" % n), range(32))]
    assert codes.count(503) > 10
    expect(banner).to_have_text([re.compile(r"^\d+ % rejected: queue_full\. .*MAX_QUEUE")], timeout=WAIT_MS)
    expect(banner).to_have_attribute("data-level", "bad")


def test_overview_lists_all_models_and_links_to_each(
    simulated: Stack, broker: Broker, watch: Callable[..., Watched]
) -> None:
    info = ModelInfo("iris", "x", InputSpec(("tensor",), "float32", (4,)), 8)
    broker.sync.hset("smartbatch:models", info.name, encode(info))
    phone = {"viewport": {"width": 400, "height": 800}}
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark"}, phone):
        page = watch(simulated.url, **options).page
        is_live(page)
        expect(page.locator("#models tbody tr")).to_have_count(2)
        assert column(page, "models", 1) == ["iris", "simulated"]
        assert column(page, "models", 2) == ["no worker ready", "ready"]
        assert column(page, "models", 9) == ["0", "1"]
        expect(page.locator("#tiles")).to_be_hidden()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("link", name="iris").click()
        expect(page.locator("#tiles")).to_be_visible()
        expect(page.locator("#model")).to_have_value("iris")
        expect(page.locator("#banner li")).to_have_text([re.compile("^No worker is ready")])
        page.reload()
        expect(page.locator("#model")).to_have_value("iris")
        page.go_back()
        expect(page.locator("#overview")).to_be_visible()


def test_key_limited_to_a_model_sees_only_that_one(
    stack: Callable[..., Stack], watch: Callable[..., Watched], tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.toml", boss=f"{ADMIN};role='admin';models=['second']")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=keys)
    system.gateway()
    system.worker(MODEL_NAME="second")
    watched = watch(system.url)
    page = watched.page
    page.get_by_label("Key", exact=True).fill(ADMIN)
    page.get_by_role("button", name="Use key").click()
    is_live(page)
    expect(page.locator("#model option")).to_have_text(["second"])
    expect(page.locator("#tiles")).to_be_visible()
    watched.expect_fault("401")


def test_several_partitions_have_a_table(stack: Callable[..., Stack], watch: Callable[..., Watched]) -> None:
    several = stack(MODEL_PATH="simulated:base_ms=4,row_ms=1", PARTITIONS=3).up(3)
    page = watch(several.url).page
    is_live(page)
    expect(page.locator("#partitions tbody tr")).to_have_count(3)
    expect(page.locator("#partitions tbody tr > :nth-child(6)")).to_have_text(["1", "1", "1"], timeout=WAIT_MS)
    assert [column(page, "partitions", n) for n in (1, 2, 3)] == [["0", "1", "2"], ["up"] * 3, ["0"] * 3]
    keys = Keys("simulated:2")
    for key in (keys.leases, keys.requests):  # of another type, so that the partition can't be read
        several.broker.sync.delete(key)
        several.broker.sync.set(key, "away")
    expect(page.locator("#banner li")).to_have_text([re.compile(r"^The broker of partition 2 does not answer; ")])
    expect(page.locator("#partitions tbody tr > :nth-child(2)")).to_have_text(["up", "up", "away"])


def test_versions_of_a_model_are_compared_side_by_side(
    stack: Callable[..., Stack], watch: Callable[..., Watched]
) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=4,row_ms=1")
    system.gateway()
    system.worker()
    old = system.worker(MODEL_VERSION=2)
    eventually(lambda: system.client.get(f"{system.url}/readyz").json()["ready_workers"].get("simulated@2"), 30)
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    pages = [watch(system.url, **options).page for options in ({}, phone)]
    for page in pages:
        is_live(page)
    page = pages[0]
    expect(page.locator("#model option")).to_have_text(["simulated", "simulated@2"])
    assert old.stop() == 0
    without = re.compile(r"^simulated@2: No worker is ready\. Requests that name no version get another one\.$")
    expect(page.locator("#banner li")).to_have_text([without], timeout=WAIT_MS)
    expect(page.locator("#banner li")).to_have_attribute("data-level", "note")
    system.worker(MODEL_VERSION=2)
    expect(page.locator("#banner li")).to_have_count(0, timeout=WAIT_MS)
    with ThreadPoolExecutor(4) as clients:  # every fourth request is for version 2
        sent = clients.map(lambda n: system.predict(b"%d" % n, params={"version": 1 + n % 4 // 3}), range(80))
        assert [response.json()["version"] for response in sent] == [1, 1, 1, 2] * 20

    def shown() -> list[list[str]]:
        return [column(page, "versions", number) for number in (1, 2, 3, 8, 9)]

    eventually(lambda: shown() == [["1", "2"], ["75 %", "25 %"], ["6", "2"], ["0", "0"], ["1", "1"]], 15, 0.1)
    p99 = [float(text) for text in column(page, "versions", 7)]
    assert all(each > 4 for each in p99)
    expect(page.locator("#versions-title")).to_have_text("Versions of simulated")
    lines = page.locator("#version-charts figure").first
    expect(lines.locator(".legend li")).to_have_text([re.compile(r"^version 1 "), re.compile(r"^version 2 ")])
    expect(lines.get_by_role("img")).to_have_attribute("aria-label", re.compile("version 1 [1-9].*, version 2 [1-9]"))
    lines.get_by_text("As a table").click()
    expect(lines.locator("thead th")).to_have_text(["Seconds ago", "version 1", "version 2"])
    expect(page.locator("#now-title")).to_have_text("Now, version 1")
    page.get_by_role("link", name="2", exact=True).click()
    expect(page.locator("#now-title")).to_have_text("Now, version 2")
    expect(page.locator("#model")).to_have_value("simulated@2")
    expect(page.locator("#versions [aria-current]")).to_have_text("2")
    expect(tile(page, "Workers ready")).to_have_text("1")
    page.get_by_label("Text").fill("hello")
    with page.expect_request(re.compile("/predict")) as request:
        page.get_by_role("button", name="Send").click()
    assert request.value.url == f"{system.url}/predict?model=simulated&version=2"
    expect(page.locator("#status")).to_contain_text("Done.")
    for each in pages:
        found = Axe().run(each)
        assert found.violations_count == 0, found.generate_report()
        assert each.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_one_version_needs_no_comparison(simulated: Stack, watch: Callable[..., Watched]) -> None:
    page = watch(simulated.url).page
    is_live(page)
    expect(page.locator("#versions-section")).to_be_hidden()
    expect(page.locator("#now-title")).to_have_text("Now")
