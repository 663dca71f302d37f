"""Whether this process traces, by the standard OTEL_ variables. If not, which is the default, nothing of OpenTelemetry
is imported; if so, `shared/telemetry/spans.py` is.
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
_SHARE = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?|\.[0-9]+", re.A)
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def configured_exporter(environ: Mapping[str, str] = os.environ) -> str:
    """Return which exporter is to be used: otlp, console, or "" for none. Raises SettingsError for what isn't known.

    Tracing is on where an endpoint is named, or OTEL_TRACES_EXPORTER says so.
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
            raise SettingsError(f"{name}: Expected http/protobuf (port 4318 of a collector, mostly), got {protocol!r}")
    return "" if exporter == "none" else exporter


class Sampling(NamedTuple):
    """Which requests are traced: those that their client samples, if its word counts, and a share of the others."""

    by_parent: bool = True
    share: float = 1.0

    def samples(self, trace_id: int, parent: TraceContext | None) -> bool:
        """By the trace's id, as every sampler of the standard does it: so all of a trace's services agree."""
        if self.by_parent and parent is not None:
            return parent.sampled
        return (trace_id & _LOW_BITS) < self.share * (_LOW_BITS + 1)


def sampling(environ: Mapping[str, str] = os.environ) -> Sampling:
    """Read OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG. Raises SettingsError. Not by the SDK's samplers, which take
    ten times as long, for every request."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    root = name.removeprefix("parentbased_")
    shares = {"always_on": 1.0, "always_off": 0.0, "traceidratio": 1.0}
    if root not in shares:
        known = ", ".join(f"{prefix}{share}" for prefix in ("", "parentbased_") for share in shares)
        raise SettingsError(f"OTEL_TRACES_SAMPLER: Expected one of {known}, got {name!r}")
    share, given = shares[root], environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if root == "traceidratio" and given:
        if not _SHARE.fullmatch(given):
            raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: Expected a number from 0 to 1, got {given!r}")
        share = float(given)
    return Sampling(name != root, share)


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise StartupError, with one clear line, if tracing is asked for and its packages aren't there."""
    if not configured_exporter(environ):
        return
    sampling(environ)
    for package in _PACKAGES:
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise StartupError(
                f"tracing (OTEL_…) needs more packages: pip install 'smartbatch-server[otel]' ({package} is missing)"
            )


def start_spans(role: str, instance: str) -> Spans | None:
    """Begin to export the spans of this process, if that is wanted. `role`: gateway or worker; `instance`: its id."""
    exporter = configured_exporter()
    if not exporter:
        return None
    check()
    from smartbatch.shared.telemetry.spans import Spans

    return Spans(exporter, role, instance)
