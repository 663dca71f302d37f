"""Free ports for servers whose port must be known before they start.

The kernel's choice (port 0) is not used: it is from the range of outgoing connections, one of which may take the port
before the server starts.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from smartbatch.shared.errors import StartupError

LOWEST = 10_000
OUTGOING = 32_768  # Linux's default; elsewhere the range is higher
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 1_000


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if it is free, else a free port on loopback outside the range of outgoing connections."""
    return preferred if preferred is not None and _is_free(preferred) else free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports. Raises StartupError."""
    for _ in range(TRIES):
        first = random.randrange(LOWEST, _outgoing_from() - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise StartupError("no free port on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do; otherwise a port in TIME_WAIT counts as used
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _outgoing_from() -> int:
    """Return the start of the kernel's port range for outgoing connections."""
    try:
        lowest = int(RANGE.read_text().split()[0])
    except OSError:
        return OUTGOING
    return lowest if lowest > LOWEST + TRIES else OUTGOING
