"""Ports for servers that are told where to listen.

Not the kernel's choice (port 0): it comes from the range that outgoing connections are given theirs from, so between
the look and the server's start one of those can take it.
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
    """`preferred` if nobody listens there, else a port of loopback that no outgoing connection will be given."""
    return preferred if preferred is not None and _is_free(preferred) else free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens at, as `free_port` chooses. Raises StartupError."""
    for _ in range(TRIES):
        first = random.randrange(LOWEST, _outgoing_from() - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise StartupError("no free port on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; else TIME_WAIT counts
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _outgoing_from() -> int:
    """Where the kernel's range for outgoing connections begins."""
    try:
        lowest = int(RANGE.read_text().split()[0])
    except OSError:
        return OUTGOING
    return lowest if lowest > LOWEST + TRIES else OUTGOING
