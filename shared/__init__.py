"""Code shared by gateways and workers: wire format, Redis keys, broker, settings, errors, telemetry.

It imports neither of them, nor numpy or torch: the gateway imports all of this and must stay small.
"""

__version__ = "0.1.0"
