"""Generated files are up to date; dashboard, alerts and their pages refer to existing metrics."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from smartbatch.deploy.observability import dashboard, metrics_page
from smartbatch.shared import errors
from smartbatch.shared.telemetry.metric_names import BATCHES, DECLARED, PART_SECONDS, REQUEST_ERRORS
from smartbatch.worker.batching.policy import CloseReason

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/observability/prometheus"
METRICS_PAGE = (ROOT / metrics_page.FILE).read_text()
ALERTS_PAGE = (ROOT / "docs/alerts.md").read_text()
RULES = (PROMETHEUS / "alerts.yml").read_text()
TRITON = (PROMETHEUS / "triton.yml").read_text()
SAMPLES = {metric.name: metric.kind for metric in DECLARED}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool (Debian: apt-get install prometheus)"
)


def panels() -> list[dict[str, Any]]:
    return json.loads((ROOT / dashboard.FILE).read_text())["panels"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def alerts() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load(RULES)["groups"][0]["rules"]


def test_generated_tables_and_dashboard_are_up_to_date() -> None:
    assert metrics_page.updated(METRICS_PAGE) == METRICS_PAGE
    assert (ROOT / dashboard.FILE).read_text() == dashboard.text()


def test_every_metric_and_every_triton_name_is_on_the_page() -> None:
    recorded = re.findall(r"- record: (\w+)", TRITON)
    assert len(set(recorded)) == 10
    assert [name for name in (*SAMPLES, *recorded) if f"| `{name}` |" not in METRICS_PAGE] == []


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels()) > 40
    for panel in panels():
        position = panel["gridPos"]
        assert position["w"] > 0 and position["h"] > 0 and position["x"] >= 0 and position["x"] + position["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels()], 2):
        disjoint = (one["x"] + one["w"] <= other["x"], other["x"] + other["w"] <= one["x"])
        disjoint += (one["y"] + one["h"] <= other["y"], other["y"] + other["h"] <= one["y"])
        assert any(disjoint), (one, other)


def test_every_panel_has_a_description_and_one_data_source() -> None:
    for panel in panels():
        if panel["type"] != "row":
            assert panel["title"] and panel["description"].endswith(".")
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert {source["uid"] for source in sources} == {"smartbatch-prometheus"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


@pytest.mark.parametrize("where", ["dashboard", "alerts", "triton", "page"])
def test_queried_metrics_are_declared(where: str) -> None:
    page = METRICS_PAGE.split("<!--")[0]
    text = {"dashboard": "\n".join(queries()), "alerts": RULES, "triton": TRITON, "page": page}[where]
    queried = set(re.findall(r"\bsmartbatch_[a-z_]+[a-z]\b", text))
    histograms = {name + suffix for name, kind in SAMPLES.items() if kind == "histogram" for suffix in _SUFFIXES}
    assert len(queried) > 5
    assert queried - {name for name, kind in SAMPLES.items() if kind != "histogram"} - histograms == set()


_SUFFIXES = ("_bucket", "_sum", "_count")


def test_every_metric_of_a_model_names_its_version() -> None:
    of_models = [metric for metric in DECLARED if "model" in metric.label_names]
    assert len(of_models) > 40
    assert [metric.name for metric in of_models if metric.labels[:2] != ("model", "version")] == []


def test_every_query_on_a_model_selects_the_version_of_the_dashboard() -> None:
    selected = re.findall(r'model=~"\$model"(,version=~"\$version")?', "\n".join(queries()))
    assert len(selected) > 50
    assert selected.count("") == 1  # the share that a version has of all requests to its model


def test_queried_label_values_are_declared() -> None:
    by_label: dict[str, set[str]] = {}
    for metric in DECLARED:
        if metric.values:
            by_label.setdefault(metric.labels[-1], set()).update(metric.values)
    text = "\n".join([*queries(), RULES, TRITON])
    queried = re.findall(r'\b(\w+)(?:=~|!=|=)"([\w|]+)"', text)
    pairs = [(label, value) for label, values in queried if label in by_label for value in values.split("|")]
    assert len(pairs) > 10
    assert [(label, value) for label, value in pairs if value not in by_label[label]] == []


def test_rejections_are_all_errors_of_missing_capacity() -> None:
    codes = set(re.findall(r'code=~"([^"]+)"', RULES + "\n".join(queries())))
    assert codes == {"|".join(sorted(errors.codes_of(errors.Unavailable)))}


def test_each_failure_code_has_a_triton_reason() -> None:
    named = {
        reason: set(codes.split("|")) for codes, reason in re.findall(r'code!?=?~"(.*?)".*?reason: (\w+)', TRITON, re.S)
    }
    *stated, other = named.values()
    assert list(named) == ["REJECTED", "CANCELED", "BACKEND", "OTHER"]  # the last one: all except these
    denied = {errors.Unauthenticated.code, errors.Forbidden.code}
    assert sorted(other) == sorted(itertools.chain(denied, *stated))
    unavailable = errors.codes_of(errors.Unavailable) | errors.codes_of(errors.LimitReached)
    assert named["REJECTED"] == unavailable | {errors.DeadlineExceeded.code}
    assert named["CANCELED"] == {errors.ClientGone.code, errors.CancelledByOperator.code}
    assert named["BACKEND"] == {errors.ModelFailed.code, errors.DeadLettered.code}
    assert other < set(REQUEST_ERRORS.values)


def test_each_alert_has_a_summary_and_a_section_on_the_page() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{alert['alert'].lower()}"
    assert re.findall(r"^## (\w+)$", ALERTS_PAGE, re.M) == [alert["alert"] for alert in alerts()]


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    cases = (PROMETHEUS / "alerts_test.yml").read_text()
    assert [alert["alert"] for alert in alerts() if f'alertname="{alert["alert"]}"' not in cases] == []


def test_declared_values_match_the_code() -> None:
    assert BATCHES.values == get_args(CloseReason)
    assert PART_SECONDS.values == ("admit", "queue", "decode", "batch_wait", "forward", "reply")


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml", "triton.yml"),
        ("test", "rules", "alerts_test.yml", "triton_test.yml"),
    ],
)
def test_promtool_reports_no_problem(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
