"""Imports redis-py as if OpenTelemetry weren't installed. It would load its metrics wherever they are, 60 modules that
nobody here uses; and a process that doesn't trace shall not pay for what others might. Imported before any `redis`.
"""

from __future__ import annotations

import sys
from typing import Any, cast

_UNWANTED = "opentelemetry"
_hidden = "redis" not in sys.modules and _UNWANTED not in sys.modules

if _hidden:
    sys.modules[_UNWANTED] = cast(Any, None)  # makes its import fail, as if it weren't there
try:
    from redis.asyncio.connection import parse_url
finally:
    if _hidden:
        del sys.modules[_UNWANTED]

__all__ = ["parse_url"]
