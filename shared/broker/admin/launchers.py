"""Launchers (`smartbatch up`): what each of them runs, and commands that load and unload models.

A launcher registers itself every second under a key that soon expires, and takes commands from a list of its own. It
reports the progress of a command in a list of that command's. All of these keys expire, so a launcher or a client that
is killed leaves nothing behind. A command is sent once and never again: what became of it is in the registration.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

import msgspec

from smartbatch.shared import keys
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed
from smartbatch.shared.keys import LAUNCHERS, split_model_id

REGISTRATION_TTL_MS = 5_000
COMMANDS_TTL_MS = 30_000
EVENTS_TTL_MS = 60_000  # after the last event
_SILENT_S = 3.0  # without an event, after which the client looks whether the launcher still has the command
_RETRY_S = 0.5  # while the broker is away


class ServedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a model that a launcher runs, or failed to load. `text`: its progress, or why it failed."""

    id: str
    path: str
    workers: int  # processes that serve it
    ready: int = 0  # of these
    state: Literal["starting", "loading", "ready", "unloading", "failed"] = "starting"
    text: str = ""


class Launcher(msgspec.Struct, frozen=True, omit_defaults=True):
    """The registration of one launcher. `repository`: its --models DIR. `unloaded`: IDs of the models that it only has
    there. `commands`: IDs of those in progress."""

    id: str
    host: str
    pid: int
    models: tuple[ServedModel, ...] = ()
    repository: str = ""
    unloaded: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    def runs(self, model: str) -> bool:
        """Whether it runs any version of this model, or failed to load one."""
        return any(split_model_id(each.id)[0] == model for each in self.models)

    def offers(self, model: str) -> bool:
        """Whether its repository has a version of this model that it doesn't run."""
        return any(split_model_id(each)[0] == model for each in self.unloaded)


class Load(msgspec.Struct, frozen=True, omit_defaults=True, tag="load"):
    """Start the workers of a model. `version` 0: with a path version 1, else what the repository's policy selects.

    `settings`: those of its workers by lower-case name, as for `smartbatch worker`; without `model_path` they come from
    the launcher's repository. `workers` 0: as many as the repository says, or 1.
    """

    model: str
    version: int = 0
    settings: dict[str, str] = {}
    workers: int = 0


class Unload(msgspec.Struct, frozen=True, omit_defaults=True, tag="unload"):
    """Drain a version of a model and end its workers. `version` 0: all versions that the launcher runs.

    `timeout_s`: how long to wait until no weight of the routing table is left for it; `now` does not wait for that.
    """

    model: str
    version: int = 0
    timeout_s: float = 60.0
    now: bool = False
    delete_dead: bool = False


class Command(msgspec.Struct, frozen=True):
    """A command as it is sent: `id` names the list of its events."""

    id: str
    action: Load | Unload


class Event(msgspec.Struct, frozen=True):
    """The progress of a command. The last event is `done` or `failed`; `number` counts them from 1."""

    kind: Literal["progress", "done", "failed"]
    text: str
    number: int = 0


_encode = msgspec.json.Encoder().encode
_decode_launcher = msgspec.json.Decoder(Launcher).decode
_decode_command = msgspec.json.Decoder(Command).decode
_decode_event = msgspec.json.Decoder(Event).decode


# --- the client's side


async def find(connection: MultiplexedConnection) -> list[Launcher]:
    """Return the launchers that run, sorted by ID. `connection` is that of LAUNCHERS, here and below."""
    ids = sorted(name.decode(errors="replace") for name in await connection.execute("SMEMBERS", LAUNCHERS))
    if not ids:
        return []
    found = await connection.execute("MGET", *map(keys.launcher, ids))
    expired = [launcher_id for launcher_id, text in zip(ids, found, strict=True) if text is None]
    if expired:  # one that only was away for some seconds adds itself again
        await connection.execute("SREM", LAUNCHERS, *expired)
    return [launcher for text in found if text is not None and (launcher := _launcher(text))]


def choose(launchers: Sequence[Launcher], model: str, launcher_id: str = "") -> Launcher:
    """Return the launcher that a command about this model is for: the one with this ID, the only one, or the only one
    that runs a version of the model or else has one in its repository. Raises ModelCommandFailed."""
    known = ", ".join(f"{each.id} (host {each.host}, pid {each.pid})" for each in launchers)
    if not launchers:
        raise ModelCommandFailed(
            "no launcher (`smartbatch up`) runs on this broker. A model is loaded by starting workers for it "
            "(`smartbatch worker`, Docker Compose, Kubernetes), and unloaded by stopping them; see docs/versions.md"
        )
    if launcher_id:
        for launcher in launchers:
            if launcher.id == launcher_id:
                return launcher
        raise ModelCommandFailed(f"there is no launcher {launcher_id[:80]!r}; these run: {known}")
    running = [launcher for launcher in launchers if launcher.runs(model)]
    offering = running or [launcher for launcher in launchers if launcher.offers(model)]
    candidates = offering if len(launchers) > 1 else launchers
    if len(candidates) != 1:
        what = "run" if running else "have"
        who = f"{len(offering)} of the launchers {what}" if offering else "none of the launchers has"
        raise ModelCommandFailed(f"{who} the model {model}; choose one with --launcher: {known}")
    return candidates[0]


async def send(
    blocking: MultiplexedConnection, launcher: Launcher, action: Load | Unload
) -> AsyncGenerator[Event, None]:
    """Send a command and yield its events; the last one is `done` or `failed`. Closing the iterator leaves the command
    going on.

    `blocking` is a connection of its own that may block for BLOCK_S. While the broker is away the events wait; an event
    without a number says so. Raises BrokerUnavailable if the command could not be sent, and ModelCommandFailed if the
    launcher ended or its events were lost.
    """
    command = Command(uuid.uuid4().hex, action)
    key, packed = keys.launcher_commands(launcher.id), _encode(command)
    await blocking.call([("RPUSH", key, packed), ("PEXPIRE", key, COMMANDS_TTL_MS)])
    seen, heard_at, away = 0, time.monotonic(), False
    while True:
        try:
            event = await _next_event(blocking, command.id)
            if event is None and time.monotonic() - heard_at > _SILENT_S:
                event = await _look(blocking, launcher, command, taken=seen > 0)
                heard_at = time.monotonic()
        except BrokerUnavailable as error:
            if not away:
                yield Event("progress", f"{error}; the launcher goes on")
            away, heard_at = True, time.monotonic()
            await asyncio.sleep(_RETRY_S)
            continue
        away = False
        if event is not None and event.number > seen:  # one may have been pushed twice
            seen, heard_at = event.number, time.monotonic()
            yield event
            if event.kind != "progress":
                return


async def _next_event(blocking: MultiplexedConnection, command_id: str) -> Event | None:
    popped = await blocking.execute("BLPOP", keys.launcher_events(command_id), BLOCK_S)
    return _decode_event(popped[1]) if popped else None


async def _look(
    connection: MultiplexedConnection, launcher: Launcher, command: Command, *, taken: bool
) -> Event | None:
    """Return None if the launcher still works on the command, or the event that came meanwhile."""
    text = await connection.execute("GET", keys.launcher(launcher.id))
    present = _launcher(text) if text else None
    if present and command.id in present.commands:
        return None
    if event := await _next_event(connection, command.id):  # the last event is pushed before the command is forgotten
        return event
    removed = await connection.execute("LREM", keys.launcher_commands(launcher.id), 1, _encode(command))
    who = f"the launcher {launcher.id} (host {launcher.host}, pid {launcher.pid})"
    if removed:
        raise ModelCommandFailed(f"{who} did not take the command; nothing was changed")
    if present:
        raise ModelCommandFailed(f"the broker lost what {who} reported; `smartbatch model list` shows what it runs")
    state = "while it carried out the command" if taken else "before it said what became of the command"
    raise ModelCommandFailed(f"{who} ended {state}, and its workers with it")


def _launcher(text: bytes) -> Launcher | None:
    try:
        return _decode_launcher(text)
    except ValueError:  # written by another program
        return None


# --- the launcher's side


class CommandQueue:
    """The commands for one launcher. `blocking` is a connection of its own that may block for BLOCK_S."""

    def __init__(self, connection: MultiplexedConnection, blocking: MultiplexedConnection, launcher_id: str) -> None:
        self._connection = connection
        self._blocking = blocking
        self._id = launcher_id

    async def register(self, launcher: Launcher) -> None:
        """Publish what the launcher runs, for REGISTRATION_TTL_MS."""
        await self._connection.call(
            [
                ("SET", keys.launcher(self._id), _encode(launcher), "PX", REGISTRATION_TTL_MS),
                ("SADD", LAUNCHERS, self._id),
                ("PEXPIRE", LAUNCHERS, REGISTRATION_TTL_MS),
            ]
        )

    async def unregister(self) -> None:
        own = (keys.launcher(self._id), keys.launcher_commands(self._id))
        await self._connection.call([("SREM", LAUNCHERS, self._id), ("UNLINK", *own)])

    async def next(self) -> Command | None:
        """Wait up to BLOCK_S for a command. One that can't be read is dropped: no client of this version sent it."""
        popped = await self._blocking.execute("BLPOP", keys.launcher_commands(self._id), BLOCK_S)
        try:
            return _decode_command(popped[1]) if popped else None
        except ValueError:
            return None

    async def report(self, command_id: str, event: Event) -> None:
        key = keys.launcher_events(command_id)
        await self._connection.call([("RPUSH", key, _encode(event)), ("PEXPIRE", key, EVENTS_TTL_MS)])
