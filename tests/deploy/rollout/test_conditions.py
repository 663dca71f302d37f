from __future__ import annotations

import pytest

from smartbatch.deploy.rollout.conditions import WARM_UP_S, Counted, Errors, Judge, Latency, parse_condition
from smartbatch.gateway.core.latency_window import Summary
from smartbatch.shared.errors import SmartBatchError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("errors>1%", Errors("errors>1%", 0.01)),
        (" errors > 0.5 % ", Errors("errors>0.5%", 0.005)),
        ("p99>1.5x", Latency("p99>1.5x", 99.0, 1.5, True)),
        ("p99.9>2x", Latency("p99.9>2x", 99.9, 2.0, True)),
        ("p50>200ms", Latency("p50>200ms", 50.0, 200.0, False)),
        ("p95>0.2s", Latency("p95>0.2s", 95.0, 200.0, False)),
    ],
)
def test_a_condition_is_parsed(text: str, condition: Errors | Latency) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize(
    "text",
    [
        *("", "errors", "errors>1", "errors>100%", "errors>-1%", "errors<1%", "errors>nan%", "p99>1.5", "p99>0.5x"),
        *("p0>2x", "p100>2x", "p99>0ms", "p99>1e3ms", "p99>2m", "latency>2x", "p99>1.5x errors>1%", "p99>½x", "p٩٩>2x"),
    ],
)
def test_anything_else_is_an_error_that_says_what_was_expected(text: str) -> None:
    with pytest.raises(SmartBatchError, match=r"a condition must be like errors>1% .* got"):
        parse_condition(text)


def answered(ms: int, count: int, errors: int = 0, code: str = "model_failed") -> Summary:
    """Requests of one latency, a power of two."""
    outcomes = {"ok": count, "error": errors}
    return Summary(outcomes, {code: errors} if errors else {}, {8 * (ms.bit_length() - 1): count})


def reason_after(condition: str, seconds: int, new: Summary, old: Summary) -> str:
    """Return why a version is worse that counts `new` every second."""
    judge, reason = Judge([parse_condition(condition)]), ""
    for second in range(1, seconds + 1):
        counted = Counted(
            *(Summary(*({k: n * second for k, n in part.items()} for part in each)) for each in parts(new, old))
        )
        reason = judge.broken(float(second), counted)
    return reason


def parts(*summaries: Summary) -> list[tuple[dict, dict, dict]]:
    return [(each.outcomes, each.errors, each.buckets) for each in summaries]


def test_the_reason_names_condition_and_counts() -> None:
    assert reason_after("errors>1%", 10, answered(16, 19, errors=1), answered(16, 400)) == (
        "errors>1%: 10 of 200 requests (5.00%) failed, 0 of 4,000 requests (0.00%) of the versions before"
    )
    assert reason_after("p99>1.5x", 9, answered(64, 20), answered(16, 20)) == (
        "p99>1.5x: 60 of 60 requests (100.00%) took over 26.2 ms, 0 of 60 requests (0.00%) of the versions before"
    )


def test_what_clients_do_wrong_says_nothing_about_a_version() -> None:
    for code in ("invalid_input", "client_gone", "rate_limited", "cancelled_by_operator"):
        assert reason_after("errors>1%", 10, answered(16, 19, 20, code), answered(16, 400)) == ""
    for code in ("model_failed", "deadline_exceeded", "queue_full", "internal_error", "of a newer version"):
        assert reason_after("errors>1%", 10, answered(16, 19, 20, code), answered(16, 400))


def test_latencies_count_once_the_version_is_warm() -> None:
    slow, quick = answered(64, 20), answered(16, 20)
    assert reason_after("p99>30ms", 1 + int(WARM_UP_S) + 2, slow, quick) == ""
    assert reason_after("p99>30ms", 1 + int(WARM_UP_S) + 3, slow, quick)


def test_nothing_is_judged_by_one_second() -> None:
    assert reason_after("errors>1%", 2, answered(16, 0, 100), answered(16, 100)) == ""
    assert reason_after("errors>1%", 3, answered(16, 0, 100), answered(16, 100))


def test_a_limit_that_the_versions_before_break_as_well_is_not_held_against_the_new_one() -> None:
    assert reason_after("p99>30ms", 20, answered(64, 20), answered(64, 20)) == ""
    assert reason_after("errors>1%", 20, answered(16, 10, 10), answered(16, 100, 100)) == ""


def test_a_relative_limit_needs_something_to_compare_with() -> None:
    assert reason_after("p99>1.5x", 20, answered(64, 20), Summary()) == ""
    assert reason_after("p99>30ms", 20, answered(64, 20), Summary())


def test_a_version_without_requests_is_not_worse() -> None:
    assert reason_after("errors>1%", 20, Summary(), answered(16, 100, 50)) == ""
