"""Which paths need no API key, and which need one for monitoring."""

from __future__ import annotations

from smartbatch.gateway.web.live import page

# Orchestrators and load balancers call them, and they reveal nothing.
PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = PROBES | page.FILES.keys()
MONITORING_SUFFIXES = ("/metrics", "/stats", page.EVENTS)
