from __future__ import annotations

from smartbatch.gateway.monitoring.known_models import FORGET_S, KnownModels
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.routing import RoutingTable


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def info(version: int, path: str = "simulated") -> ModelInfo:
    return ModelInfo("m", path, InputSpec(("raw",)), 32, version=version)


def test_versions_are_known_by_name_in_order():
    known = KnownModels()
    assert known.update({"m@10": info(10), "m": info(1), "m@2": info(2)}, {}) == {"m", "m@2", "m@10"}
    assert known.versions == {"m": [1, 2, 10]}


def test_only_new_and_changed_announcements_are_reported():
    known = KnownModels()
    known.update({"m": info(1)}, {})
    assert known.update({"m": info(1)}, {}) == set()
    assert known.update({"m": info(1, "resnet18")}, {}) == {"m"}


def test_what_redis_lost_stays_known_for_a_while():
    clock = Clock()
    known = KnownModels(clock)
    known.update({"m": info(1)}, {})
    known.update({}, {})
    clock.now = FORGET_S - 1
    known.update({}, {})
    assert "m" in known.infos
    clock.now = FORGET_S + 1
    known.update({}, {})
    assert known.infos == {} and known.versions == {}


def test_an_announcement_that_comes_back_starts_anew():
    clock = Clock()
    known = KnownModels(clock)
    known.update({"m": info(1)}, {})
    known.update({}, {})
    clock.now = FORGET_S - 1
    known.update({"m": info(1)}, {})
    known.update({}, {})
    clock.now = FORGET_S + 1
    known.update({}, {})
    assert "m" in known.infos


def test_a_version_that_is_unloaded_is_forgotten_at_once():
    known = KnownModels()
    tables = {"m": RoutingTable(weights={2: 1}, draining=(1,))}
    known.update({"m": info(1), "m@2": info(2)}, tables)
    assert known.versions == {"m": [1, 2]}
    known.update({"m@2": info(2)}, tables)
    assert known.versions == {"m": [2]}
