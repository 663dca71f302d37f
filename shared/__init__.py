"""What gateways and workers must agree on: wire format, Redis keys, broker scripts, settings, errors.

Imports neither of them, and no numpy or torch: the gateway imports all of this and must stay small.
"""

__version__ = "0.1.0"
