"""A request that is refused for want of room: its response, its count and its log line."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest

from smartbatch.gateway.inference.predict import PredictRequest
from smartbatch.gateway.inference.request import Response
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import QueueFull, Unauthenticated
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[GatewayServices]:
    gateway = GatewayServices(from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m", "MAX_QUEUE": "1"}))
    gateway.queue(None)._admission_control.capacity = lambda: Capacity(rows_per_s=0.01, batch_s=0.2)
    yield gateway
    await gateway.close()


def close(gateway: GatewayServices) -> None:
    """Redis has refused a request for want of room."""
    request = NewEntry("r", 30_000, 1, "raw", b"x")
    gateway.queue(None)._admission_control.learned(AdmitResult(1, 2, [AdmitStatus.FULL]), [(request, AdmitStatus.FULL)])


def refused(gateway: GatewayServices, *headers: tuple[bytes, bytes]) -> Response:
    prediction = PredictRequest(gateway)
    with pytest.raises(QueueFull) as found:
        prediction.head(headers, b"")
    response = prediction.failed(found.value)
    assert response is not None
    return response


async def test_a_refusal_says_when_to_come_back_and_is_counted_and_logged(
    gateway: GatewayServices, caplog: pytest.LogCaptureFixture
) -> None:
    close(gateway)
    with caplog.at_level(logging.INFO):
        response = refused(gateway, (b"x-request-id", b"mine"), (b"x-request-timeout", b"2.5"))
    headers, content = dict(response.headers), json.loads(response.content)
    assert response.status == 503
    assert headers[b"x-request-id"] == b"mine"
    assert int(headers[b"retry-after"]) >= 1
    assert content["code"] == "queue_full"
    gateway.settle_metrics()
    labels = {"model": "m", "outcome": "rejected"}
    assert gateway.metrics.registry.get_sample_value("smartbatch_requests_total", labels) == 1
    (line,) = caplog.records
    assert vars(line)["request_id"] == content["request_id"]


async def test_without_an_id_of_the_client_it_has_its_own(gateway: GatewayServices) -> None:
    close(gateway)
    first, second = refused(gateway), refused(gateway)
    assert dict(first.headers)[b"x-request-id"].decode() == json.loads(first.content)["request_id"]
    assert dict(first.headers)[b"x-request-id"] != dict(second.headers)[b"x-request-id"]


async def test_one_place_that_became_free_takes_one_request(gateway: GatewayServices) -> None:
    PredictRequest(gateway).head([], b"")
    close(gateway)
    gateway.queue(None)._admission_control._tokens = 1.0
    PredictRequest(gateway).head([], b"")
    refused(gateway)


async def test_a_callers_key_is_looked_at_before_the_room(
    gateway: GatewayServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(gateway)
    monkeypatch.setattr(gateway.authenticator, "_key_store", object())
    with pytest.raises(Unauthenticated):
        PredictRequest(gateway).head([], b"")
