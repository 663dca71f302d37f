"""One request's trace as a collector receives it from a real gateway and a real worker."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.brokers import Broker, eventually
from tests.otlp import Collector
from tests.system.stack import COMMAND, Process, Stack

PARTS = ["admit", "queue", "decode", "batch_wait", "forward", "reply"]
SERVER, CONSUMER = 2, 5  # of the standard's enum of kinds


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def traced(stack: Callable[..., Stack], collector: Collector, **settings: object) -> Stack:
    return stack(
        **{
            "MODEL_PATH": "simulated:base_ms=60,row_ms=0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": 100,
            **settings,
        }
    )


def started(system: Stack) -> Stack:
    return system.up()


def parent(*, sampled: bool = True) -> tuple[str, str, str]:
    """Return a new trace's id, its span's, and the header that says both."""
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{sampled:02x}"


def test_a_request_is_one_trace_from_the_client_to_its_reply(stack: Callable[..., Stack], collector: Collector) -> None:
    system = started(traced(stack, collector))
    trace_id, client_span, header = parent()
    sent = time.time_ns()
    response = system.predict(
        b"a secret input", headers={"traceparent": header, "tracestate": "vendor=a, other=b", "user-agent": "me/1"}
    )
    came = time.time_ns()
    spans = collector.trace(trace_id, ["POST /predict", *PARTS])
    server = spans["POST /predict"]
    result = response.json()
    assert server.parent_id == client_span
    assert server.kind == SERVER
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "user_agent.original": "me/1",
        "smartbatch.request_id": result["request_id"],
        "smartbatch.model": "simulated",
        "smartbatch.model_version": 1,
        "smartbatch.rows": 1,
        "smartbatch.batch.id": result["batch"]["id"],
        "smartbatch.batch.rows": 1,
        "smartbatch.batch.requests": 1,
        "smartbatch.batch.closed": result["batch"]["closed"],
        "smartbatch.worker": result["batch"]["worker"],
        "smartbatch.deliveries": 1,
    }
    assert not server.failed
    assert {span.state for span in spans.values()} == {"vendor=a,other=b"}
    # One below the other, end to end, and together as long as the whole.
    assert all(spans[part].parent_id == server.span_id for part in PARTS)
    assert sent <= server.start < server.end <= came
    assert [part for part in PARTS if spans[part].start] == sorted(PARTS, key=lambda part: spans[part].start)
    for part in PARTS:
        assert server.start - 2e6 <= spans[part].start <= spans[part].end <= server.end + 2e6
    in_ms = {part: spans[part].ms for part in PARTS}
    in_ms["batch_wait"] += (spans["decode"].start - spans["queue"].end) / 1e6  # the wait for a decode thread
    assert in_ms == pytest.approx(
        {part: result["timing_ms"][part] for part in PARTS}, abs=2.1
    )  # Redis has milliseconds
    assert sum(in_ms.values()) == pytest.approx(server.ms, abs=5)
    assert spans["forward"].ms >= 60
    # The resource
    roles = {part: spans[part].resource["service.name"] for part in PARTS}
    assert roles == dict.fromkeys(PARTS, "smartbatch-worker") | dict.fromkeys(("admit", "reply"), "smartbatch-gateway")
    assert spans["queue"].resource["service.instance.id"] == result["batch"]["worker"]
    # The batch, in a trace of its own
    eventually(lambda: collector.named("batch simulated"))
    (batch,) = collector.named("batch simulated")
    assert spans["forward"].links == [batch.id]
    assert batch.links == [server.id]
    assert batch.kind == CONSUMER
    assert batch.trace_id != trace_id
    assert {span.name for span in collector.of(batch.trace_id)} == {"batch simulated", "forward", "encode"}
    assert batch.attributes["smartbatch.batch.id"] == result["batch"]["id"]
    assert batch.attributes["smartbatch.device"] == "simulated"
    assert "secret" not in repr(collector.spans)


async def test_requests_of_one_batch_are_linked_by_one_span(stack: Callable[..., Stack], collector: Collector) -> None:
    system = await asyncio.to_thread(started, traced(stack, collector, MAX_WAIT_TIME=0.5, WINDOW="fixed"))
    ids = [parent() for _ in range(2)]
    ids.append(parent(sampled=False))
    async with httpx.AsyncClient() as client:
        responses = await asyncio.gather(
            *(client.post(f"{system.url}/predict", content=b"x", headers={"traceparent": each[2]}) for each in ids)
        )
    assert {response.json()["batch"]["requests"] for response in responses} == {3}
    traces = [await asyncio.to_thread(collector.trace, each[0], ["POST /predict", *PARTS]) for each in ids[:2]]
    (batch,) = await asyncio.to_thread(eventually, lambda: collector.named("batch simulated"))
    assert sorted(batch.links) == sorted(spans["POST /predict"].id for spans in traces)
    assert batch.attributes["messaging.batch.message_count"] == 3
    assert batch.attributes["smartbatch.batch.closed"] == responses[0].json()["batch"]["closed"]
    assert collector.of(ids[2][0]) == []


def test_unsampled_request_has_no_span(stack: Callable[..., Stack], collector: Collector) -> None:
    system = started(traced(stack, collector))
    trace_id, _, header = parent(sampled=False)
    assert system.predict(b"x", headers={"traceparent": header}).status_code == 200
    sampled, _, header = parent()
    assert system.predict(b"x", headers={"traceparent": header}).status_code == 200
    collector.trace(sampled, ["POST /predict", *PARTS])  # the later one is there
    assert collector.of(trace_id) == []
    assert len(collector.named("batch simulated")) == 1


@pytest.mark.parametrize(
    "header", ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "nonsense", f"ff-{'a' * 32}-{'b' * 16}-01"]
)
def test_trace_begins_at_the_gateway_without_a_valid_traceparent(
    stack: Callable[..., Stack], collector: Collector, header: str
) -> None:
    system = traced(stack, collector)
    system.gateway()
    rejected = system.predict(b"x", params={"model": "none"}, headers={"traceparent": header, "tracestate": "a=b"})
    assert rejected.status_code == 404
    (server,) = eventually(lambda: collector.named("POST /predict"))
    assert (server.parent_id, server.state) == ("", "")
    assert server.attributes["http.response.status_code"] == 404
    assert server.attributes["error.type"] == "unknown_model"
    assert not server.failed  # its client is at fault


def test_a_sampler_can_sample_nothing(stack: Callable[..., Stack], collector: Collector) -> None:
    system = started(traced(stack, collector, OTEL_TRACES_SAMPLER="always_off"))
    trace_id, _, header = parent()
    assert system.predict(b"x", headers={"traceparent": header}).status_code == 200
    assert system.processes[0].stop() == system.processes[1].stop() == 0
    assert collector.spans == []
    del trace_id


def test_inference_by_rest_and_by_grpc_is_traced_too(stack: Callable[..., Stack], collector: Collector) -> None:
    grpc = pytest.importorskip("grpc")
    from smartbatch.gateway.grpc import inference_pb2 as pb

    system = traced(stack, collector)
    started(system)
    rest, _, rest_header = parent()
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
    path = "/v2/models/simulated/infer"
    response = system.client.post(f"{system.url}{path}", json=body, headers={"traceparent": rest_header})
    server = collector.trace(
        rest, [f"POST {path}".replace("simulated", "{model}"), *PARTS] if response.is_success else []
    )
    first = next(span for name, span in server.items() if name.startswith("POST"))
    assert first.attributes["url.path"] == path
    assert first.attributes["http.route"] == "/v2/models/{model}/infer"

    rpc, client_span, rpc_header = parent()
    rejected, _, rejected_header = parent()
    name = "inference.GRPCInferenceService/ModelInfer"
    with grpc.insecure_channel(system.grpc_gateway().url) as channel:
        infer = channel.unary_unary(
            f"/{name}", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        tensor = pb.ModelInferRequest.InferInputTensor(name="input", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(b"x")
        message = pb.ModelInferRequest(model_name="simulated", inputs=[tensor])
        infer(message, metadata=(("traceparent", rpc_header),), timeout=20)
        with pytest.raises(grpc.RpcError):
            missing = pb.ModelInferRequest(model_name="none", inputs=[tensor])
            infer(missing, metadata=(("traceparent", rejected_header),), timeout=20)
    spans = collector.trace(rpc, [name, *PARTS])
    assert spans[name].parent_id == client_span
    assert spans[name].attributes["rpc.system.name"] == "grpc"
    assert spans[name].attributes["rpc.method"] == name
    assert spans[name].attributes["rpc.response.status_code"] == "OK"
    assert collector.trace(rejected, [name])[name].attributes["rpc.response.status_code"] == "NOT_FOUND"


async def test_redelivery_is_recorded_in_the_trace(stack: Callable[..., Stack], collector: Collector) -> None:
    system = traced(stack, collector, MODEL_PATH="simulated:base_ms=1500,row_ms=0", MAX_BATCH_SIZE=1)
    _, victim = (await asyncio.to_thread(system.up)).processes
    trace_id, _, header = parent()
    async with httpx.AsyncClient(timeout=30) as client:
        sending = asyncio.create_task(
            client.post(f"{system.url}/predict", content=b"x", headers={"traceparent": header})
        )
        await asyncio.to_thread(eventually, lambda: system.held_by(victim))
        victim.kill()
        await asyncio.to_thread(system.worker)
        response = await sending
    assert response.status_code == 200
    spans = await asyncio.to_thread(collector.trace, trace_id, ["POST /predict", *PARTS])
    assert spans["POST /predict"].attributes["smartbatch.deliveries"] == 2
    assert spans["queue"].attributes["smartbatch.deliveries"] == 2
    assert spans["queue"].events == ["redelivered"]
    assert spans["queue"].ms > 1000  # until the first worker was found dead
    assert spans["forward"].attributes["smartbatch.batch.closed"] == "isolated"


def test_failed_and_expired_requests_have_error_spans(stack: Callable[..., Stack], collector: Collector) -> None:
    system = traced(stack, collector, MODEL_PATH="simulated:base_ms=400,row_ms=0")
    system.up()
    trace_id, _, header = parent()
    late = system.predict(b"x", headers={"traceparent": header, "x-request-timeout": "0.1"})
    assert late.status_code == 504
    eventually(lambda: collector.named("POST /predict"))
    (server,) = collector.named("POST /predict")
    assert server.failed
    assert server.attributes["error.type"] == "deadline_exceeded"
    assert server.attributes["http.response.status_code"] == 504
    (admit,) = collector.named("admit")
    assert (admit.trace_id, admit.parent_id) == (trace_id, server.span_id)


def test_unreachable_collector_disturbs_nothing(stack: Callable[..., Stack]) -> None:
    system = stack(
        MODEL_PATH="simulated:base_ms=0,row_ms=0",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_BSP_SCHEDULE_DELAY=50,
    )
    gateway, worker = system.up().processes
    until = time.monotonic() + 3
    statuses = set()
    while time.monotonic() < until:
        statuses.add(system.predict(b"x").status_code)
    assert statuses == {200}
    for process in (gateway, worker):
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 15  # two seconds more than without
        text = [
            line for line in process.log.read_text().splitlines() if "xport" in line or "127.0.0.1', port=1" in line
        ]
        assert len(text) == 1, text


@pytest.mark.parametrize(
    "environ",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "none", "disabled"],
)
def test_opentelemetry_is_not_imported_without_tracing(
    stack: Callable[..., Stack], tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "opentelemetry").mkdir()  # stands before the installed one
    seen = tmp_path / "seen"
    (tmp_path / "opentelemetry" / "__init__.py").write_text(f"open({str(seen)!r}, 'a').write('imported')")
    system = started(stack(MODEL_PATH="simulated", PYTHONPATH=tmp_path, **environ))
    assert system.predict(b"x", headers={"traceparent": parent()[2]}).status_code == 200
    assert system.processes[0].stop() == system.processes[1].stop() == 0
    assert not seen.exists()


def test_every_gateway_process_exports_under_its_own_instance_id(
    stack: Callable[..., Stack], collector: Collector
) -> None:
    system = started(traced(stack, collector, GATEWAY_PROCESSES=2))

    def instances() -> set[str]:
        with httpx.Client() as client:  # a connection of its own, which either process may take
            client.post(f"{system.url}/predict", content=b"x")
        return {span.resource["service.instance.id"] for span in collector.named("POST /predict")}

    eventually(lambda: len(instances()) == 2, 30, 0.1)


def test_smartbatch_up_passes_tracing_settings_to_its_children(
    broker: Broker, collector: Collector, tmp_path: Path
) -> None:
    environ = {
        "REDIS_URL": broker.url,
        "MODEL_PATH": "simulated",
        "PORT": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "ours",
    }
    process = Process([*COMMAND, "up"], environ, tmp_path / "up.log")
    try:
        line = eventually(lambda: [ln for ln in process.log.read_text().splitlines() if "ready     http" in ln], 40)[0]
        assert httpx.post(f"{line.split()[1]}/predict", content=b"x").status_code == 200
        assert process.stop() == 0  # buffered spans are exported at shutdown
    finally:
        process.kill()
    assert {span.name for span in collector.spans} == {"POST /predict", *PARTS, "batch simulated", "encode"}
    assert {span.resource["service.name"] for span in collector.spans} == {"ours"}
    assert len({span.resource["service.instance.id"] for span in collector.spans}) == 2


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: Expected http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: Expected otlp or console or none, got 'zipkin'"),
        ({"PYTHONPATH": "absent"}, "pip install 'smartbatch-server[otel]'"),
    ],
)
@pytest.mark.parametrize("command", ["gateway", "worker", "up"])
def test_unavailable_tracing_is_reported_in_one_line_at_startup(
    broker: Broker, tmp_path: Path, command: str, environ: dict[str, str], text: str
) -> None:
    if "PYTHONPATH" in environ:  # an opentelemetry without its SDK stands before the installed one
        (tmp_path / "opentelemetry").mkdir()
        (tmp_path / "opentelemetry" / "__init__.py").touch()
        environ = {"PYTHONPATH": f"{tmp_path}"}
    given = {"REDIS_URL": broker.url, "MODEL_PATH": "simulated", "PORT": "0"}
    process = Process(
        [*COMMAND, command],
        {**given, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **environ},
        tmp_path / "log",
    )
    try:
        assert process.popen.wait(30) == 2
    finally:
        process.kill()
    assert text in process.log.read_text()
    assert len(process.log.read_text().splitlines()) == 1
