"""One request, step by step: its response, its metrics and log line if it is rejected, and its references."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from smartbatch.gateway.inference.codec import Response
from smartbatch.gateway.inference.predict import PredictCodec
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import DeadlineUnattainable, InvalidInput, QueueFull, Unauthenticated
from smartbatch.shared.settings import from_environment
from smartbatch.shared.wire import Reply, Result, pack_reply, unpack_reply
from tests.brokers import Broker

KEYS = "app:" + "0" * 64


@pytest.fixture
async def services(broker: Broker) -> AsyncIterator[GatewayServices]:
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m", "MAX_QUEUE": "1"})
    async for services in with_settings(settings):
        yield services


async def with_settings(settings) -> AsyncIterator[GatewayServices]:
    services = GatewayServices(settings)
    services.default_queue.partitions[0].admission_control.capacity = lambda: Capacity(rows_per_s=0.01, batch_s=0.2)
    yield services
    await services.close()


def close_admission(services: GatewayServices) -> None:
    """Tell admission control that the broker has rejected a request because the queue is full."""
    entry = NewEntry("r", 30_000, 1, "raw", b"x")
    control = services.default_queue.partitions[0].admission_control
    control.update(AdmitResult(1, 2, [AdmitStatus.FULL]), [(entry, AdmitStatus.FULL)])


def predict(services: GatewayServices, *headers: tuple[bytes, bytes]) -> InferenceRequest:
    request = InferenceRequest(services, PredictCodec())
    request.parse_head(headers, b"")
    return request


def rejected(services: GatewayServices, *headers: tuple[bytes, bytes]) -> Response:
    request = InferenceRequest(services, PredictCodec())
    with pytest.raises(QueueFull) as found:
        request.parse_head(headers, b"")
    response = request.fail(found.value)
    assert response is not None
    return response


async def test_a_rejection_says_when_to_retry_and_is_counted_and_logged(
    services: GatewayServices, caplog: pytest.LogCaptureFixture
) -> None:
    close_admission(services)
    with caplog.at_level(logging.INFO):
        response = rejected(services, (b"x-request-id", b"mine"), (b"x-request-timeout", b"2.5"))
    headers, content = dict(response.headers), json.loads(response.content)
    assert response.status == 503
    assert headers[b"x-request-id"] == b"mine"
    assert int(headers[b"retry-after"]) >= 1
    assert content["code"] == "queue_full"
    services.publish_metrics()
    labels = {"model": "m", "version": "1", "outcome": "rejected"}
    assert services.metrics.registry.get_sample_value("smartbatch_requests_total", labels) == 1
    (line,) = caplog.records
    assert vars(line)["request_id"] == content["request_id"]


async def test_without_a_clients_id_it_has_its_own(services: GatewayServices) -> None:
    close_admission(services)
    first, second = rejected(services), rejected(services)
    assert dict(first.headers)[b"x-request-id"].decode() == json.loads(first.content)["request_id"]
    assert dict(first.headers)[b"x-request-id"] != dict(second.headers)[b"x-request-id"]


async def test_each_freed_place_admits_one_request(services: GatewayServices) -> None:
    predict(services)
    close_admission(services)
    services.default_queue.partitions[0].admission_control._tokens = 1.0
    predict(services)
    rejected(services)


async def test_the_key_is_checked_before_admission(broker: Broker) -> None:
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m", "MAX_QUEUE": "1", "API_KEYS": KEYS})
    async for services in with_settings(settings):
        close_admission(services)
        with pytest.raises(Unauthenticated):
            predict(services)


async def test_the_shortest_timeout_counts_and_request_timeout_is_the_longest(services: GatewayServices) -> None:
    assert predict(services).timeout_ms == services.settings.request_timeout * 1000
    request = predict(services, (b"x-request-timeout", b"2.5"))
    assert request.timeout_ms == 2500
    assert request.deadline_at == request.started_at + 2.5
    assert predict(services, (b"x-request-timeout", b"86400")).timeout_ms == services.settings.request_timeout * 1000


class Entry(NewEntry, weakref=True):
    """An entry that supports weak references, which show whether it still exists."""


@pytest.mark.parametrize("end", [lambda request: request.end(b"reply"), lambda request: request.release()])
async def test_an_ended_request_is_garbage_collected(
    services: GatewayServices, end: Callable[[InferenceRequest], None]
) -> None:
    class Driver:
        def __init__(self) -> None:
            self.request = predict(services)
            self.request.entry = Entry("r", 1000, 1, "raw", b"x")
            self.request.submit(self.on_outcome)

        def on_outcome(self, outcome: Outcome) -> None:
            self.request.release()

    gc.disable()
    try:
        driver = Driver()
        entry = weakref.ref(driver.request.entry)
        end(driver.request)
        assert not driver.request.waiting
        del driver
        services.default_queue._submitter._unsent.clear()
        assert entry() is None
    finally:
        gc.enable()


def many_rows(services: GatewayServices, rows: int) -> InferenceRequest:
    request = predict(services, (b"content-type", b"application/json"))
    request.parse_body(json.dumps({"data": ["a"] * rows}).encode())
    return request


async def test_only_some_parts_of_a_request_are_in_the_queue_at_once(services: GatewayServices) -> None:
    outcomes: list[Outcome] = []
    queue = services.default_queue
    queue.partitions[0].admission_control.capacity = lambda: Capacity(rows_per_s=1000, batch_s=0.01, workers=2)
    request = many_rows(services, 10 * 32)
    request.submit(outcomes.append)
    assert list(queue.outstanding) == [f"{request.id}.{n}" for n in range(1, 7)]  # three for each worker
    for answered in range(1, 11):
        assert outcomes == []
        part = queue.outstanding[f"{request.id}.{answered}"]
        part.end(pack_reply(Reply(Result(values=[answered] * 32, tokens=answered))))
        assert len(queue.outstanding) == min(6, 10 - answered)
    assert isinstance(outcomes[0], bytes)
    result = unpack_reply(outcomes[0]).result
    assert result is not None
    assert result.values == [n for n in range(1, 11) for _ in range(32)]
    assert result.tokens == 55


async def test_an_error_of_a_part_ends_the_request_and_submits_no_more(services: GatewayServices) -> None:
    outcomes: list[Outcome] = []
    queue = services.default_queue
    queue.partitions[0].admission_control.capacity = lambda: Capacity(rows_per_s=1000, batch_s=0.01)
    request = many_rows(services, 10 * 32)
    request.submit(outcomes.append)
    first, second, *_ = queue.outstanding.values()
    first.end(pack_reply(Reply(None, InvalidInput("no"))))
    [outcome] = outcomes
    assert isinstance(outcome, bytes)
    with pytest.raises(InvalidInput):
        request.finish(outcome)
    request.record_failure(InvalidInput("no"))
    assert list(queue.outstanding) == []
    second.end(pack_reply(Reply(Result(values=[1] * 32))))
    assert list(queue.outstanding) == []


async def test_a_request_of_many_rows_that_would_be_late_is_rejected_at_once(services: GatewayServices) -> None:
    queue = services.default_queue
    queue.partitions[0].admission_control.capacity = lambda: Capacity(rows_per_s=10, batch_s=0.5)
    with pytest.raises(DeadlineUnattainable, match=r"0 rows ahead and 320 of this request at 10 rows/s: 32 s, plus"):
        many_rows(services, 320).submit(lambda outcome: None)
    assert list(queue.outstanding) == []
    many_rows(services, 280).submit(lambda outcome: None)
    assert len(queue.outstanding) == 4
