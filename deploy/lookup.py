"""Find models, entries and dead letters, over all partitions of a model.

A partition whose broker is away is left out, unless no partition can be read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, NamedTuple, TypeVar

import click

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.dead_letters import DeadLetter, DeadLetters
from smartbatch.shared.broker.admin.entries import Entries, EntryStatus
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.primary import primaries
from smartbatch.shared.errors import BrokerUnavailable, SmartBatchError
from smartbatch.shared.keys import MODELS, Keys, partition_tag, split_model_id
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.partitions import partitions_of
from smartbatch.shared.settings import Settings

T = TypeVar("T")

_LETTER_ID = re.compile(r"\d+-\d+")


class Partition(NamedTuple):
    """One partition of a model. `several`: whether the model has others, so that users see its number."""

    tag: str
    several: bool

    @property
    def fields(self) -> dict[str, Any]:
        """What JSON output says of where something was found."""
        keys = Keys(self.tag)
        return {**model_fields(keys.model), **({"partition": keys.partition} if self.several else {})}


def model_fields(model: str) -> dict[str, Any]:
    """Return what JSON output says of a model's ID."""
    name, version = split_model_id(model)
    return {"model": name, "version": version}


class Model(NamedTuple):
    """A model, or those of its partitions that were asked for. `info` is None until a worker has announced it."""

    name: str
    info: ModelInfo | None
    partitions: list[Partition]


Matches = list[tuple[Partition, T]]


@asynccontextmanager
async def open_connections(settings: Settings, block_s: float = 0.0) -> AsyncIterator[Connections]:
    await check(settings.broker_url)
    with closing(Connections(settings.broker_url, block_s=block_s)) as connections:
        yield connections


def letters_of(connections: Connections, partition: Partition) -> DeadLetters:
    keys = Keys(partition.tag)
    return DeadLetters(connections.of(keys.dead), keys)


def entries_of(connections: Connections, partition: Partition) -> Entries:
    return Entries(connections.of(Keys(partition.tag).requests), partition.tag)


# --- models and their partitions


async def models_named(connections: Connections, settings: Settings, name: str | None) -> list[Model]:
    """Return the model with this ID, or all that are announced. M:3 stands for one partition of the model M."""
    try:
        infos = await registry.models(connections.of(MODELS))
    except BrokerUnavailable:  # on a cluster the model's own nodes may still answer
        if not name:
            raise
        infos = {}
    if not name:
        return [_model(each, info, info.partitions) for each, info in sorted(infos.items())]
    keys = Keys(name)
    model, info = keys.model, infos.get(keys.model)
    if ":" in name:
        return [Model(model, info, [Partition(keys.tag, several=True)])]
    slots = await primaries(settings.broker_url).slots()
    return [_model(model, info, info.partitions if info else partitions_of(model, slots, settings.partitions))]


def _model(name: str, info: ModelInfo | None, numbers: Sequence[int]) -> Model:
    return Model(name, info, [Partition(partition_tag(name, number), len(numbers) > 1) for number in numbers])


async def partitions_named(connections: Connections, settings: Settings, name: str | None) -> list[Partition]:
    models = await models_named(connections, settings, name)
    return [partition for model in models for partition in model.partitions]


async def snapshot_of(connections: Connections, model: Model) -> Snapshot:
    """Return the state of all partitions of a model together."""
    read = lambda partition: registry.snapshot(connections.of(Keys(partition.tag).requests), partition.tag)  # noqa: E731
    found, _ = await read_each(model.partitions, read)
    snapshots = {partition.tag: snapshot for partition, snapshot in found}
    parts = [snapshots.get(each.tag) or Snapshot.unreachable(each.tag) for each in model.partitions]
    return Snapshot.together(model.name, parts)


async def read_each(
    partitions: Sequence[Partition], read: Callable[[Partition], Awaitable[T]]
) -> tuple[Matches[T], dict[str, BrokerUnavailable]]:
    """Read from all partitions at once. Returns what was read, and by tag why others could not be.

    Raises BrokerUnavailable if none could.
    """
    results = await asyncio.gather(*map(read, partitions), return_exceptions=True)
    found, away = [], {}
    for partition, result in zip(partitions, results, strict=True):
        if isinstance(result, BrokerUnavailable):
            away[partition.tag] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            found.append((partition, result))
    if away and not found:
        raise next(iter(away.values()))
    return found, away


def warn_of(away: Mapping[str, BrokerUnavailable]) -> None:
    """Say on stderr which partitions a list leaves out."""
    for tag, error in away.items():
        click.echo(f"smartbatch: {tag} is left out: {error}", err=True)


# --- entries and dead letters


async def every_letter(
    connections: Connections, settings: Settings, name: str | None, limit: int | None = None
) -> Matches[DeadLetter]:
    """Return the dead letters of one model or all, newest first, up to `limit` of each model."""
    letters: Matches[DeadLetter] = []
    for model in await models_named(connections, settings, name):
        found, away = await read_each(model.partitions, lambda each: letters_of(connections, each).newest(limit))
        warn_of(away)
        of_model = [(partition, letter) for partition, newest in found for letter in newest]
        of_model.sort(key=lambda match: [int(number) for number in match[1].id.split("-")], reverse=True)
        letters += of_model[:limit]
    return letters


async def oldest_entries(connections: Connections, model: Model, limit: int) -> Matches[EntryStatus]:
    """Return up to `limit` running and `limit` waiting entries of a model, oldest first."""
    found, away = await read_each(model.partitions, lambda each: entries_of(connections, each).oldest(limit))
    warn_of(away)
    entries = [(partition, status) for partition, oldest in found for status in oldest]
    if len(found) > 1:
        entries.sort(key=lambda match: match[1].age_s, reverse=True)
    running, waiting = ([match for match in entries if bool(match[1].worker) is state] for state in (True, False))
    return running[:limit] + waiting[:limit]


async def find_letters(
    connections: Connections, settings: Settings, name: str | None, letter_ids: Sequence[str]
) -> Matches[DeadLetter]:
    """Return the dead letter of each ID. Raises SmartBatchError unless every ID matches exactly one."""
    for letter_id in letter_ids:
        if not _LETTER_ID.fullmatch(letter_id):
            raise SmartBatchError(f"invalid dead letter ID {letter_id!r:.60}; expected one like 1795433558335-0")
    partitions = await partitions_named(connections, settings, name)
    find = lambda partition, ids: letters_of(connections, partition).find(ids)  # noqa: E731
    return await _find(partitions, name, letter_ids, find, "dead letter", "smartbatch dead list")


async def find_entries(
    connections: Connections, settings: Settings, name: str | None, ids: Sequence[str]
) -> Matches[EntryStatus]:
    """Return the entry of each entry or request ID. Raises SmartBatchError unless every ID matches exactly one."""
    partitions = await partitions_named(connections, settings, name)
    find = lambda partition, ids: entries_of(connections, partition).find(ids)  # noqa: E731
    return await _find(partitions, name, ids, find, "entry", "smartbatch queue")


async def _find(
    partitions: Sequence[Partition],
    name: str | None,
    ids: Sequence[str],
    find: Callable[[Partition, Sequence[str]], Awaitable[list[T | None]]],
    kind: str,
    list_command: str,
) -> Matches[T]:
    ids = list(dict.fromkeys(ids))
    matches: dict[str, Matches[T]] = {id_: [] for id_ in ids}
    found, away = await read_each(partitions, lambda partition: find(partition, ids))
    for partition, each_found in found:
        for id_, each in zip(ids, each_found, strict=True):
            if each is not None:
                matches[id_].append((partition, each))
    for id_, each_match in matches.items():
        if not each_match and away:
            tags = ", ".join(away)
            raise BrokerUnavailable(f"no {kind} {id_:.60} where the broker answers; {tags} can't be read")
        if not each_match:
            where = f"model {name!r}" if name else "any model"
            raise SmartBatchError(f"no {kind} {id_:.60} in {where}; `{list_command}` lists what exists")
        if len(each_match) > 1:
            tags = [partition.tag for partition, _ in each_match]
            what = "models" if len({Keys(tag).model for tag in tags}) == len(tags) else "partitions"
            raise SmartBatchError(f"{kind} {id_} exists in several {what} ({', '.join(tags)}); select one with --name")
    return [each_match[0] for each_match in matches.values()]
