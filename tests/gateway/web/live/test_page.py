from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

from smartbatch.gateway.core import metrics
from smartbatch.gateway.monitoring.history import Point
from smartbatch.gateway.web.live import page
from smartbatch.shared import errors
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names

ROOT = Path(__file__).parents[4]
STATIC = ROOT / "gateway/web/live/static"


def test_every_file_is_served_and_shipped() -> None:
    there = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert there == {name for name, _ in page.FILES.values()} | {"vendor/uPlot.LICENSE"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [*patterns] = project["tool"]["setuptools"]["package-data"]["smartbatch.gateway.web.live"]
    package = ROOT / "gateway/web/live"
    shipped = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    assert shipped == {package / "static" / name for name in there}
    assert "gateway/web/live/static/vendor/uPlot.LICENSE" in project["project"]["license-files"]


def test_page_files_refer_to_no_other_server() -> None:
    for name, _ in page.FILES.values():
        if not name.startswith("vendor/"):
            text = (resources.files("smartbatch.gateway.web.live") / "static" / name).read_text()
            addresses = re.findall(r"\w+://[^\s\"'<]+", text)
            assert set(addresses) <= {"http://www.w3.org/2000/svg", "http://HOST:PORT/predict"}


def test_the_page_has_a_text_for_every_close_reason_part_and_outcome() -> None:
    texts = (STATIC / "texts.js").read_text()
    for name, values in (
        ("CLOSED", names.BATCHES.values),
        ("PARTS", names.PART_SECONDS.values),
        ("OUTCOMES", names.REQUESTS.values),
    ):
        block = re.findall(rf"export const {name} = \[\n(.*?)\n\];", texts, re.S)[0]
        assert sorted(re.findall(r'^  \["(\w+)"', block, re.M)) == sorted(values)


def test_the_page_has_advice_for_every_error_that_is_not_the_clients() -> None:
    texts = (STATIC / "texts.js").read_text()
    block = re.findall(r"export const ADVICE = \{\n(.*?)\n\};", texts, re.S)[0]
    tree = errors.by_code()
    not_the_servers = {"invalid", "denied", "cancelled"}
    codes = [
        code
        for code in names.REQUEST_ERRORS.values
        if metrics._outcome_of(tree.get(code, Exception)) not in not_the_servers
    ]
    assert sorted(re.findall(r"^  (\w+): \[", block, re.M)) == sorted(codes)
    settings = {name.upper() for name in Settings.__struct_fields__}
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", block)) <= settings


def test_every_column_that_the_charts_show_is_in_the_history() -> None:
    charts = (STATIC / "charts.js").read_text()
    named = set(re.findall(r'name: "(\w+)"', charts))
    assert {"answered", "client_errors"} < named
    assert named | set(names.PART_SECONDS.values) | {"at_s"} == set(Point.__struct_fields__)
