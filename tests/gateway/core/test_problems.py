from __future__ import annotations

import json

import pytest

from smartbatch.gateway.core.problems import STATUS, problem, problem_with, status_of
from smartbatch.shared import errors

EXPECTED = {
    "error": 500,
    "bad_request": 400,
    "malformed_body": 400,
    "model_command_failed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "malformed_request": 400,
    "unknown_model": 404,
    "not_acceptable": 406,
    "body_timeout": 408,
    "head_timeout": 408,
    "body_too_large": 413,
    "too_many_rows": 413,
    "url_too_long": 414,
    "unsupported_media": 415,
    "invalid_input": 422,
    "limit_reached": 429,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "head_too_large": 431,
    "client_gone": 499,
    "model_failed": 500,
    "dead_lettered": 500,
    "cancelled_by_operator": 500,
    "startup_error": 500,
    "settings_error": 500,
    "model_load_error": 500,
    "route_changed": 500,
    "wire_error": 502,
    "unavailable": 503,
    "too_many_connections": 503,
    "receiving_full": 503,
    "queue_full": 503,
    "deadline_unattainable": 503,
    "broker_unavailable": 503,
    "broker_full": 503,
    "draining": 503,
    "deadline_exceeded": 504,
}


def test_every_error_class_has_its_documented_status():
    assert {code: status_of(cls("x")) for code, cls in errors.by_code().items()} == EXPECTED


def test_statuses_separate_client_and_server_errors():
    for cls in errors.by_code().values():
        status = status_of(cls("x"))
        assert (400 <= status < 500) == issubclass(cls, errors.ClientError)
        assert (status in (429, 503, 504)) == cls.retryable


def test_the_status_table_holds_only_error_classes():
    assert set(STATUS) <= set(errors.by_code().values())


def test_problem_has_the_members_of_both_conventions():
    status, headers, body = problem(errors.InvalidInput("expected 3, got 4"), "r-1")
    assert (status, headers) == (422, {"content-type": "application/problem+json", "x-request-id": "r-1"})
    assert json.loads(body) == {
        "type": "urn:smartbatch:invalid_input",
        "title": "Invalid input",
        "status": 422,
        "detail": "expected 3, got 4",
        "request_id": "r-1",
        "code": "invalid_input",
        "error": "expected 3, got 4",
    }


@pytest.mark.parametrize(
    ("retry_after_s", "header"),
    [(0.0, "1"), (-3, "1"), (1.0, "1"), (1.2, "2"), (7, "7"), (float("nan"), "1"), (float("inf"), "3600")],
)
def test_unavailable_has_retry_after_in_whole_seconds(retry_after_s, header):
    status, headers, _ = problem(errors.QueueFull("full", retry_after_s), "r-1")
    assert (status, headers["retry-after"]) == (503, header)


def test_a_limit_has_retry_after_up_to_the_end_of_the_day():
    status, headers, _ = problem(errors.QuotaExceeded("used up", 80_000.5), "r-1")
    assert (status, headers["retry-after"]) == (429, "80001")
    assert problem(errors.RateLimited("too fast", 0.02), "r-1")[1]["retry-after"] == "1"


def test_a_rejection_names_the_expected_scheme():
    assert problem(errors.Unauthenticated("no key"), None)[1]["www-authenticate"] == 'Bearer realm="smartbatch"'


def test_problem_does_not_name_the_brokers_address():
    error = errors.BrokerUnavailable("the broker can't be reached: Error 111 connecting to redis.internal:6379")
    assert b"redis.internal" not in problem(error, "r-1")[2]
    assert "redis.internal" in str(error)


def test_unexpected_exception_is_not_shown():
    status, headers, body = problem(RuntimeError("password=hunter2"), "r-1")
    assert status == 500
    assert "retry-after" not in headers
    assert b"hunter2" not in body
    assert json.loads(body)["code"] == "internal_error"
    assert "r-1" in json.loads(body)["detail"]


def test_problem_without_a_request_id_omits_the_member():
    _, headers, body = problem(RuntimeError(), None)
    assert "x-request-id" not in headers
    assert "request_id" not in json.loads(body)


def test_any_detail_is_valid_json():
    assert json.loads(problem(errors.InvalidInput("\ud800" + "x" * 5000), "r")[2])["detail"] == "?" + "x" * 999
    assert json.loads(problem(errors.InvalidInput(""), "r")[2])["detail"] == "Invalid input"


def test_problem_of_a_route_that_does_not_exist():
    status, _, body = problem_with(404, "not_found", "no such path", "r-1")
    assert (status, json.loads(body)["type"]) == (404, "urn:smartbatch:not_found")
