"""The models that this gateway knows: what workers have announced, and the routing tables. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from smartbatch.shared.keys import split_model_id
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.routing import RoutingTable

# A model that Redis has lost stays known for this long, since a worker announces it again as soon as one starts. One
# that is unloaded is forgotten at once.
FORGET_S = 600.0


class KnownModels:
    """`infos`: by model ID. `versions`: of each model by its name, in order. `tables`: of the models that have one, by
    name. The dicts stay the same objects."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.infos: dict[str, ModelInfo] = {}
        self.versions: dict[str, list[int]] = {}
        self.tables: dict[str, RoutingTable] = {}
        self._clock = clock
        self._absent_since: dict[str, float] = {}

    def update(self, announced: Mapping[str, ModelInfo], tables: Mapping[str, RoutingTable]) -> set[str]:
        """Take over what Redis has. Returns the IDs whose announcement is new or has changed."""
        changed = {model for model, info in announced.items() if self.infos.get(model) != info}
        self.tables.clear()
        self.tables.update(tables)
        self.infos.update(announced)
        for model in announced:
            self._absent_since.pop(model, None)
        for model in [each for each in self.infos if each not in announced and self._is_gone(each)]:
            del self.infos[model]
            self._absent_since.pop(model, None)
        self.versions.clear()
        for name, version in sorted(map(split_model_id, self.infos)):
            self.versions.setdefault(name, []).append(version)
        return changed

    def _is_gone(self, model: str) -> bool:
        name, version = split_model_id(model)
        if name in self.tables and version in self.tables[name].draining:
            return True
        return self._clock() - self._absent_since.setdefault(model, self._clock()) > FORGET_S
