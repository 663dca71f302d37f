"""The standard environment variables decide whether and what is traced."""

from __future__ import annotations

import pytest

from smartbatch.shared.errors import SettingsError
from smartbatch.shared.telemetry.trace_context import TraceContext
from smartbatch.shared.telemetry.tracing import Sampling, configured_exporter, sampling

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}
LOW, HIGH = 1, 2**64 - 1  # trace ids, by which ratio samplers decide
UPSTREAM = TraceContext("0" * 31 + "1", "0" * 15 + "1", True)


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        (ENDPOINT, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "Console"}, "console"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, "otlp"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp"),
    ],
)
def test_tracing_is_on_where_the_standards_variables_say_so(environ: dict[str, str], exporter: str) -> None:
    assert configured_exporter(environ) == exporter


@pytest.mark.parametrize(
    ("sampler", "arg", "expected"),
    [
        ("", "", (True, 1.0)),
        ("parentbased_always_on", "", (True, 1.0)),
        ("Parentbased_Always_Off", "", (True, 0.0)),
        ("parentbased_traceidratio", "0.25", (True, 0.25)),
        ("traceidratio", ".5", (False, 0.5)),
        ("traceidratio", "", (False, 1.0)),
        ("always_on", "nonsense", (False, 1.0)),  # an argument that this sampler ignores
        ("always_off", "", (False, 0.0)),
    ],
)
def test_standard_samplers_are_supported(sampler: str, arg: str, expected: tuple[bool, float]) -> None:
    assert sampling({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": arg}) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
    ],
)
def test_unknown_samplers_are_rejected(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_SAMPLER"):
        sampling(environ)


def test_only_parent_based_samplers_follow_the_parent() -> None:
    unsampled = UPSTREAM._replace(sampled=False)
    assert Sampling(True, 0.0).samples(HIGH, UPSTREAM)
    assert not Sampling(True, 1.0).samples(LOW, unsampled)
    assert not Sampling(False, 0.0).samples(LOW, UPSTREAM)
    assert Sampling(False, 1.0).samples(HIGH, unsampled)


def test_ratio_samplers_decide_by_the_trace_id() -> None:
    half = Sampling(False, 0.5)
    assert half.samples(LOW, None)
    assert half.samples(LOW + (HIGH << 64), None)  # only the lower half is used
    assert not half.samples(HIGH, None)
    assert Sampling(False, 1.0).samples(HIGH, None)
    assert not Sampling(False, 0.0).samples(0, None)
