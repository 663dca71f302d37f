"""Lists the models that there are, and loads and unloads them by request: sends the command to a launcher (`smartbatch
up`) and awaits its outcome.

What a load may start is what the launcher's operator put into its model repository: a request names a model of it and
can't give a path, a configuration or files. Triton's clients send both commands in the same form.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.oip import metadata
from smartbatch.gateway.oip.metadata import IndexEntry, check_access
from smartbatch.shared.broker.admin import launchers
from smartbatch.shared.broker.admin.launchers import Event, Launcher, Load, Unload
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, ClientError, Forbidden, ModelCommandFailed
from smartbatch.shared.keys import LAUNCHERS, check_model_name, parse_version
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

_NO_KEYS = (
    "to load and unload models by request, use an API key with the role admin, or without API keys MANAGEMENT_PORT; "
    "`smartbatch model` does it on the command line"
)


class SystemView(Protocol):
    """What commands need of the gateway process."""

    settings: Settings
    monitor: SystemMonitor


def check_may_change(principal: Principal | None, name: str, *, managed: bool) -> None:
    """Raise Forbidden unless the key has the role admin and may use the model. Without API keys only requests to the
    management port may load and unload."""
    if principal is None:
        if not managed:
            raise Forbidden(_NO_KEYS)
        return
    if principal.key.role != "admin":
        raise Forbidden("an API key with the role admin is required")
    check_access(principal, name.partition("@")[0])


def check_load(repository: str, parameters: Iterable[str]) -> None:
    """Raise ClientError for options that Triton has and this server doesn't."""
    _check_repository(repository)
    for name in parameters:
        raise ClientError(
            f"load: the parameter {name!r:.80} is not supported: a model is loaded as its folder in the model "
            "repository describes it"
        )


def check_unload(repository: str, parameters: Iterable[str]) -> None:
    """Raise ClientError for unknown options. No model depends on another one, so unload_dependents changes nothing."""
    _check_repository(repository)
    for name in parameters:
        if name != "unload_dependents":
            raise ClientError(f"unload: unknown parameter {name!r:.80}; unload_dependents is known")


def _check_repository(repository: str) -> None:
    if repository:
        raise ClientError("repository_name is not supported: a launcher has one model repository")


def target(name: str) -> tuple[str, int]:
    """Return model and version of `model@version`; 0 without a version. Raises UnknownModel."""
    model, at, version = name.partition("@")
    return check_model_name(model), parse_version(version) if at else 0


async def index(view: SystemView, principal: Principal | None, *, only_ready: bool) -> list[IndexEntry]:
    """List the versions of the models that the principal may use: those that have or had workers, those that a launcher
    failed to load, and those that its repository has beside them. The text of a failure may name files and code."""
    if only_ready:
        return metadata.index(view.monitor, principal, {}, only_ready=True)
    found: list[Launcher] = []
    with contextlib.suppress(BrokerUnavailable):
        found = await view.monitor.launchers()
    tells = view.settings.debug_errors or (principal is not None and principal.key.role == "admin")
    others = {model: "it is not loaded" for launcher in found for model in launcher.unloaded}
    for each in (model for launcher in found for model in launcher.models):
        failed = each.text if tells else "its load failed"
        others[each.id] = failed if each.state == "failed" else "it is loading"
    return metadata.index(view.monitor, principal, others, only_ready=False)


async def carry_out(action: Load | Unload, view: SystemView, principal: Principal | None) -> None:
    """Have a launcher load or unload a model. Returns once it is ready, or its workers have ended.

    Raises ModelCommandFailed with what the launcher says, or BrokerUnavailable. A request that is cancelled meanwhile
    leaves the launcher to it.
    """
    connection = MultiplexedConnection(view.settings.broker_url, LAUNCHERS)
    blocking = MultiplexedConnection(view.settings.broker_url, LAUNCHERS, block_s=BLOCK_S)
    last: Event | None = None
    try:
        launcher = _choose(await launchers.find(connection), action)
        log.info("%s for the launcher %s, by %s", action, launcher.id, principal.name if principal else "a request")
        async for event in launchers.send(blocking, launcher, action):
            last = event
    finally:
        connection.close()
        blocking.close()
    if last is not None and last.kind == "failed":
        raise ModelCommandFailed(last.text)
    with contextlib.suppress(BrokerUnavailable):
        await view.monitor.refresh()  # so that the client's next request finds what it changed


def _choose(found: Sequence[Launcher], action: Load | Unload) -> Launcher:
    if isinstance(action, Load) and found:
        found = [launcher for launcher in found if launcher.repository]
        if not found:
            raise ModelCommandFailed(
                "the launcher has no model repository to load from: start it with `smartbatch up --models DIR`, or "
                "give a path on the command line (`smartbatch model load`)"
            )
    return launchers.choose(found, action.model)
