"""A request that is refused by what is known of its head: the same refusal as one that was read anew."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest

from smartbatch.gateway.http.heads import Head
from smartbatch.gateway.inference.predict import PredictRequest, refused_at_once
from smartbatch.gateway.inference.request import Response
from smartbatch.gateway.oip.infer import OipInferRequest
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import QueueFull
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker

TRACEPARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


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


def head_of(*headers: tuple[bytes, bytes], query: bytes = b"") -> Head:
    return Head(b"POST", "1.1", "/predict", b"/predict", query, list(headers), False)


def refused(gateway: GatewayServices, head: Head) -> Response:
    """As a PredictRequest has it, which reads the head and keeps what it says."""
    prediction = PredictRequest(gateway)
    with pytest.raises(QueueFull) as found:
        prediction.head(head.headers, head.query, head)
    response = prediction.failed(found.value)
    assert response is not None
    return response


def without_own(response: Response) -> tuple[int, list[tuple[bytes, bytes]], dict[str, object]]:
    """What doesn't differ from one refusal to the next."""
    content = json.loads(response.content)
    assert content.pop("request_id")
    headers = dict(response.headers)
    assert int(headers.pop(b"retry-after")) >= 1
    return response.status, sorted(headers.items()), content


async def test_it_is_the_refusal_that_reading_the_head_anew_comes_to(
    gateway: GatewayServices, caplog: pytest.LogCaptureFixture
) -> None:
    close(gateway)
    head = head_of((b"x-request-id", b"mine"), (b"x-request-timeout", b"2.5"))
    with caplog.at_level(logging.INFO):
        slowly = refused(gateway, head)
        at_once = refused_at_once(gateway, head)
    assert at_once is not None
    assert without_own(at_once) == without_own(slowly)
    assert dict(at_once.headers)[b"x-request-id"] == b"mine"
    assert json.loads(at_once.content)["request_id"] != json.loads(slowly.content)["request_id"]
    gateway.settle_metrics()
    labels = {"model": "m", "outcome": "rejected"}
    assert gateway.metrics.registry.get_sample_value("smartbatch_requests_total", labels) == 2
    one, other = caplog.records
    assert one.message == other.message
    assert {*vars(one)} == {*vars(other)}
    assert vars(other)["request_id"] == json.loads(at_once.content)["request_id"]


async def test_without_an_id_of_the_client_it_has_its_own(gateway: GatewayServices) -> None:
    close(gateway)
    head = head_of()
    refused(gateway, head)
    first, second = refused_at_once(gateway, head), refused_at_once(gateway, head)
    assert first is not None
    assert second is not None
    assert dict(first.headers)[b"x-request-id"].decode() == json.loads(first.content)["request_id"]
    assert dict(first.headers)[b"x-request-id"] != dict(second.headers)[b"x-request-id"]


async def test_a_head_that_was_not_read_before_is_read(gateway: GatewayServices) -> None:
    close(gateway)
    assert refused_at_once(gateway, head_of()) is None


@pytest.mark.parametrize("head", [head_of(TRACEPARENT), head_of(query=b"model=m")], ids=["trace", "model"])
async def test_what_names_a_trace_or_a_model_is_read_anew(gateway: GatewayServices, head: Head) -> None:
    close(gateway)
    refused(gateway, head)
    assert refused_at_once(gateway, head) is None


async def test_a_request_of_another_protocol_has_refusals_of_its_own(gateway: GatewayServices) -> None:
    close(gateway)
    path = "/v2/models/m/infer"
    head = Head(b"POST", "1.1", path, path.encode(), b"", [], False)
    with pytest.raises(QueueFull):
        OipInferRequest(gateway, path).head(head.headers, head.query, head)
    assert head.parsed is not None
    assert refused_at_once(gateway, head) is None


async def test_while_there_is_room_nothing_is_refused_and_no_place_is_taken(gateway: GatewayServices) -> None:
    head = head_of()
    PredictRequest(gateway).head(head.headers, head.query, head)
    admission_control = gateway.queue(None)._admission_control
    assert refused_at_once(gateway, head) is None
    close(gateway)
    admission_control._tokens = 1.0  # one place has become free since
    for _ in range(3):
        assert refused_at_once(gateway, head) is None
    admission_control.check(30_000)  # takes it
    assert refused_at_once(gateway, head) is not None


async def test_a_callers_key_is_always_looked_at(gateway: GatewayServices, monkeypatch: pytest.MonkeyPatch) -> None:
    close(gateway)
    head = head_of()
    refused(gateway, head)
    monkeypatch.setattr(gateway.authenticator, "_key_store", object())
    assert refused_at_once(gateway, head) is None
