"""Paths that need no API key, and paths that need one with the role monitor or admin."""

from __future__ import annotations

from smartbatch.gateway.web.docs import pages as docs
from smartbatch.gateway.web.live import page

# Requested by orchestrators and load balancers. They reveal nothing.
PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = PROBES | page.FILES.keys() | docs.FILES.keys()
MONITORING_SUFFIXES = ("/metrics", "/stats", page.EVENTS)
