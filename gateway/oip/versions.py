"""Which versions of a model a request about it means. Requests that run it are routed by gateway/routing/."""

from __future__ import annotations

from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import model_id, parse_version, split_model_id


def of(monitor: SystemMonitor, name: str) -> list[int]:
    """Return the known versions of a model in ascending order. Raises UnknownModel if there are none."""
    if not (versions := monitor.versions(name)):
        known = sorted({split_model_id(each)[0] for each in monitor.model_names})
        raise UnknownModel(f"model {name!r:.140} not found; available: {', '.join(known)}")
    return versions


def meant(monitor: SystemMonitor, name: str, version: str) -> list[str]:
    """Return the ID of one version, or those of all if `version` is empty. Raises UnknownModel."""
    versions = of(monitor, name)
    if version:
        if (number := parse_version(version)) not in versions:
            raise UnknownModel(f"model {name!r} has no version {version}; available: {', '.join(map(str, versions))}")
        versions = [number]
    return [model_id(name, each) for each in versions]


def chosen(monitor: SystemMonitor, name: str, version: str) -> str:
    """Return the ID of one version, or of the one that requests by name go to. Raises UnknownModel."""
    if version:
        return meant(monitor, name, version)[0]
    of(monitor, name)
    return model_id(name, monitor.default_version(name))
