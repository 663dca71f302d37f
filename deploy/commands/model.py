"""`smartbatch model`"""

from __future__ import annotations

import asyncio
import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from smartbatch.deploy.lookup import models_named, open_connections, snapshot_of
from smartbatch.deploy.models.entry import MAX_WORKERS, MODEL_SETTINGS, located, located_path
from smartbatch.deploy.options import json_option, read_for_operator, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin.launchers import Launcher, Load, Unload, choose, find, send
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed
from smartbatch.shared.keys import LAUNCHERS, split_model_id
from smartbatch.shared.settings import Settings

_FROM_ARGUMENTS = ("MODEL_PATH", "MODEL_NAME", "MODEL_VERSION")
launcher_option = click.option(
    "--launcher", "launcher_id", metavar="ID", default="", help="Which `smartbatch up`, if several run on the broker."
)


@click.group("model")
def command() -> None:
    """Load, unload and list models of a running `smartbatch up`.

    MODEL is a name or, with a version, like iris@2. Elsewhere (Docker Compose, Kubernetes) a model is loaded by
    starting workers and unloaded by stopping them; docs/versions.md describes both.
    """


@command.command("load")
@click.argument("model", metavar="MODEL")
@click.option(
    "--path", "model_path", metavar="PATH", help="Model to load, as MODEL_PATH. Default: from --models of `up`."
)
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), help="Worker processes. Default: 1, or as the repository says."
)
@launcher_option
@setting_options(*(name for name in MODEL_SETTINGS if name not in _FROM_ARGUMENTS), "REDIS_URL")
def load(model: str, model_path: str | None, workers: int | None, launcher_id: str, **options: str | None) -> None:
    """Start workers for a model and wait until they are ready.

    Without a version: version 1 of a --path, or what the version_policy of the repository selects. The options are
    settings of its workers, as for `smartbatch worker`. Ctrl-C leaves the load going on. Exit code 2 if it failed; then
    nothing else has changed.
    """
    settings = read_for_operator({"redis_url": options.pop("redis_url"), **_only_given(options)})
    given = {**_only_given(options), **({"model_path": model_path} if model_path else {})}
    action = Load(*_name_and_version(model), settings=_with_absolute_files(given), workers=workers or 0)
    _send(settings, action, launcher_id)


@command.command("unload")
@click.argument("model", metavar="MODEL")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds to wait until no weight is left for it, and then for its requests.",
)
@click.option("--now", is_flag=True, help="Don't wait until no weight is left for it.")
@click.option("--delete-dead", is_flag=True, help="Delete its dead letters too.")
@launcher_option
@setting_options("REDIS_URL")
def unload(model: str, timeout_s: float, now: bool, delete_dead: bool, launcher_id: str, **options: str | None) -> None:
    """Send a model no more requests, answer those that it has, and end its workers. Without a version: all versions.

    While the routing table has a weight for the version and another version could serve, it waits until that is 0. A
    command that failed in between is completed by the same command. Ctrl-C leaves it going on. Exit code 2 if it
    failed.
    """
    name, version = _name_and_version(model)
    action = Unload(name, version, timeout_s=timeout_s, now=now, delete_dead=delete_dead)
    _send(read_for_operator(options), action, launcher_id)


@command.command("list")
@setting_options("REDIS_URL")
@json_option
def list_(as_json: bool, **options: str | None) -> None:
    """List all models and versions: those with workers, those that a launcher loads or failed to load, and those that
    its repository has beside them."""
    asyncio.run(_list(read_for_operator(options), as_json))


# --- implementation


def _name_and_version(model: str) -> tuple[str, int]:
    """Return the version 0 if the argument has none."""
    name, version = split_model_id(model)
    return name, version if "@" in model else 0


def _only_given(options: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _with_absolute_files(settings: dict[str, str]) -> dict[str, str]:
    """Make files of the working directory absolute, since the launcher's may be another one."""
    here = Path.cwd()
    how = {"model_path": located_path, "model_weights": located}
    return {name: how[name](value, here) if name in how else value for name, value in settings.items()}


def _send(settings: Settings, action: Load | Unload, launcher_id: str) -> None:
    try:
        asyncio.run(_send_and_follow(settings, action, launcher_id))
    except KeyboardInterrupt:
        what = "load" if isinstance(action, Load) else "unload"
        raise ModelCommandFailed(f"the {what} goes on; `smartbatch model list` shows its progress") from None


async def _send_and_follow(settings: Settings, action: Load | Unload, launcher_id: str) -> None:
    async with open_connections(settings) as connections:
        launcher = choose(await find(connections.of(LAUNCHERS)), action.model, launcher_id)
        with closing(MultiplexedConnection(settings.broker_url, LAUNCHERS, block_s=BLOCK_S)) as blocking:
            async for event in send(blocking, launcher, action):
                if event.kind == "failed":
                    raise ModelCommandFailed(event.text)
                click.echo(event.text)


async def _list(settings: Settings, as_json: bool) -> None:
    async with open_connections(settings) as connections:
        rows = await _rows(connections, settings)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("no model is served")
        return
    shown = table("model", "version", "state", "ready workers", "MODEL_PATH", "launcher", "")
    for row in rows:
        values = [row[name] for name in ("model", "version", "state", "ready_workers", "path", "launcher", "text")]
        shown.add_row(*[str(value or ("" if value != 0 else 0)) for value in values])
    console().print(shown)


async def _rows(connections: Connections, settings: Settings) -> list[dict[str, Any]]:
    """Return a row per model ID: what its launcher says of it, and what the registry does. Last those that are only in
    a launcher's repository."""
    launchers: list[Launcher] = []
    with suppress(BrokerUnavailable):  # the broker may not permit this to its user
        launchers = await find(connections.of(LAUNCHERS))
    served = {each.id: (launcher, each) for launcher in launchers for each in launcher.models}
    announced = {model.name: model for model in await models_named(connections, settings, None)}
    rows = []
    for model_id in sorted({*served, *announced}, key=split_model_id):
        name, version = split_model_id(model_id)
        launcher, model = served.get(model_id, (None, None))
        ready = 0
        path = model.path if model else ""
        if model_id in announced:
            info = announced[model_id].info
            path = path or (info.path if info else "")
            ready = len((await snapshot_of(connections, announced[model_id])).ready_workers)
        rows.append(
            {
                "model": name,
                "version": version,
                "state": model.state if model else "ready" if ready else "no workers",
                "ready_workers": ready,
                "path": path,
                "launcher": launcher.id if launcher else None,
                "text": model.text if model else "",
            }
        )
    for launcher in launchers:
        for model_id in sorted(set(launcher.unloaded) - served.keys() - announced.keys(), key=split_model_id):
            name, version = split_model_id(model_id)
            row = {"model": name, "version": version, "state": "not loaded", "ready_workers": 0}
            rows.append({**row, "path": "", "launcher": launcher.id, "text": f"in {launcher.repository}"})
    return rows
