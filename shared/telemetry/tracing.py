"""Reads the tracing configuration from the standard OTEL_ variables.

Tracing is off by default. OpenTelemetry and `shared/telemetry/spans.py` are imported only if it is on.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from smartbatch.shared.errors import SettingsError, StartupError
from smartbatch.shared.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from smartbatch.shared.telemetry.spans import Spans

_EXPORTERS = ("otlp", "console", "none")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_LOW_BITS = 2**64 - 1
_RATIO = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?|\.[0-9]+", re.A)
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def configured_exporter(environ: Mapping[str, str] = os.environ) -> str:
    """Return the configured exporter: `otlp`, `console`, or "" if tracing is off. Raises SettingsError for others.

    Without OTEL_TRACES_EXPORTER, tracing is on if an endpoint is set.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not exporter:
        exporter = "otlp" if any(environ.get(name, "").strip() for name in _ENDPOINTS) else "none"
    if exporter not in _EXPORTERS:
        raise SettingsError(f"OTEL_TRACES_EXPORTER: Expected {' or '.join(_EXPORTERS)}, got {exporter!r}")
    for name in _PROTOCOLS:
        protocol = environ.get(name, "").strip()
        if exporter == "otlp" and protocol not in ("", "http/protobuf"):
            raise SettingsError(
                f"{name}: Expected http/protobuf (a collector usually has it on port 4318), got {protocol!r}"
            )
    return "" if exporter == "none" else exporter


class Sampling(NamedTuple):
    """Decides which requests are traced. With `by_parent`, a client that sends a trace context decides for its request.

    Of all other requests the share `ratio` is traced.
    """

    by_parent: bool = True
    ratio: float = 1.0

    def samples(self, trace_id: int, parent: TraceContext | None) -> bool:
        """Return whether a request is traced. Like OpenTelemetry's samplers this uses the trace ID, so that all
        services of a trace decide the same."""
        if self.by_parent and parent is not None:
            return parent.sampled
        return (trace_id & _LOW_BITS) < self.ratio * (_LOW_BITS + 1)


def sampling(environ: Mapping[str, str] = os.environ) -> Sampling:
    """Read OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG. Raises SettingsError.

    The SDK's own samplers take ten times as long per request.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    root = name.removeprefix("parentbased_")
    ratios = {"always_on": 1.0, "always_off": 0.0, "traceidratio": 1.0}
    if root not in ratios:
        known = ", ".join(f"{prefix}{sampler}" for prefix in ("", "parentbased_") for sampler in ratios)
        raise SettingsError(f"OTEL_TRACES_SAMPLER: Expected one of {known}, got {name!r}")
    ratio, arg = ratios[root], environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if root == "traceidratio" and arg:
        if not _RATIO.fullmatch(arg):
            raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: Expected a number from 0 to 1, got {arg!r}")
        ratio = float(arg)
    return Sampling(name != root, ratio)


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise StartupError if tracing is configured incorrectly, or on without its packages installed."""
    if not configured_exporter(environ):
        return
    sampling(environ)
    for package in _PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            raise StartupError(
                f"tracing (OTEL_…) needs more packages: pip install 'smartbatch-server[otel]' ({package} is missing)"
            )


def start_spans(role: str, instance: str) -> Spans | None:
    """Return the exporter of this process's spans, or None if tracing is off.

    `role` is `gateway` or `worker`, `instance` the ID of the process.
    """
    exporter = configured_exporter()
    if not exporter:
        return None
    check()
    from smartbatch.shared.telemetry.spans import Spans

    return Spans(exporter, role, instance)
