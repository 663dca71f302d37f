"""Loads the valid API keys from the file and the environment, and reloads the file when it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from smartbatch.gateway.auth import keys
from smartbatch.gateway.auth.keys import Key
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class KeyStore:
    """One per process; used by its event loop. The constructor raises SettingsError if the keys can't be read."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._environment_keys = keys.from_variable(settings.api_keys)
        self._stamp: Stamp | None = None
        self._reported_error = ""
        self.keys = self._read()

    @staticmethod
    def configured(settings: Settings) -> bool:
        return bool(settings.api_keys_file or settings.api_keys)

    def reload(self) -> bool:
        """Reload the file if it has changed. Returns whether the keys changed.

        The keys stay as they are if the file can't be read or is invalid, which is logged once.
        """
        if self._path is None:
            return False
        try:
            if _stamp(self._path.stat()) == self._stamp:
                return False
            found = self._read()
        except (OSError, SettingsError) as error:
            if str(error) != self._reported_error:
                self._reported_error = str(error)
                log.error("API_KEYS_FILE can't be read; the previous keys stay valid: %s", error)
            return False
        changed = found != self.keys
        self.keys = found
        if changed or self._reported_error:
            log.warning("API_KEYS_FILE was reloaded: %d valid keys", len(found))
        self._reported_error = ""
        return changed

    def _read(self) -> dict[str, Key]:
        if self._path is None:
            return self._environment_keys
        try:
            with self._path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                text = file.read()
        except OSError as error:
            raise SettingsError(f"API_KEYS_FILE: {self._path}: {error.strerror}") from None
        self._stamp = stamp  # kept for an invalid file too, so that it isn't read every second
        found = keys.from_file(text, f"API_KEYS_FILE {self._path}")
        both = [*self._environment_keys.items(), *found.items()]
        keys.check(both, "API_KEYS and API_KEYS_FILE")
        return dict(both)


def _stamp(stat: os.stat_result) -> Stamp:
    """Identify a version of the file: a replaced file has another inode, a rewritten one another time or size."""
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
