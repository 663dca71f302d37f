"""The keys that hold now, from the file and the environment. The file is read again when it changes."""

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
    """One per process; used by its event loop. Fails closed: it can't be made from keys that can't be read."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._fixed = keys.from_variable(settings.api_keys)
        self._stamp: Stamp | None = None
        self._complained = ""
        self.keys = self._read()

    @staticmethod
    def wanted(settings: Settings) -> bool:
        return bool(settings.api_keys_file or settings.api_keys)

    def reload(self) -> bool:
        """Read the file again if it is another than before, and say whether that changed the keys.

        A file that can't be read, or that is wrong, leaves the keys as they are and is complained of once.
        """
        if self._path is None:
            return False
        try:
            if _stamp(self._path.stat()) == self._stamp:
                return False
            found = self._read()
        except (OSError, SettingsError) as error:
            if str(error) != self._complained:
                self._complained = str(error)
                log.error("API_KEYS_FILE can't be taken over, the keys of before still hold: %s", error)
            return False
        changed = found != self.keys
        self.keys = found
        if changed or self._complained:
            log.warning("API_KEYS_FILE was read again: %d keys hold now", len(found))
        self._complained = ""
        return changed

    def _read(self) -> dict[str, Key]:
        if self._path is None:
            return self._fixed
        try:
            with self._path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                text = file.read()
        except OSError as error:
            raise SettingsError(f"API_KEYS_FILE: {self._path}: {error.strerror}") from None
        self._stamp = stamp  # also of a file that is wrong: it isn't read each second
        found = keys.from_file(text, f"API_KEYS_FILE {self._path}")
        both = [*self._fixed.items(), *found.items()]
        keys.check(both, "API_KEYS and API_KEYS_FILE")
        return dict(both)


def _stamp(found: os.stat_result) -> Stamp:
    """A replaced file has another inode, a rewritten one another time or size."""
    return found.st_ino, found.st_mtime_ns, found.st_size
