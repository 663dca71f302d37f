"""Whether this process traces, by the standard OTEL_ variables. If not, which is the default, nothing of OpenTelemetry
is imported; if so, `shared/spans.py` is.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.errors import SettingsError, StartupError

if TYPE_CHECKING:
    from shared.spans import Spans

_EXPORTERS = ("otlp", "console", "none")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def wanted(environ: Mapping[str, str] = os.environ) -> str:
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


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise StartupError, with one clear line, if tracing is asked for and its packages aren't there."""
    if not wanted(environ):
        return
    for package in _PACKAGES:
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise StartupError(
                f"tracing (OTEL_…) needs more packages: pip install 'smartbatch[otel]' ({package} is missing)"
            )


def started(role: str, instance: str) -> Spans | None:
    """Begin to export the spans of this process, if that is wanted. `role`: gateway or worker; `instance`: its id."""
    exporter = wanted()
    if not exporter:
        return None
    check()
    from shared.spans import Spans

    return Spans(exporter, role, instance)
