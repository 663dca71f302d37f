"""What KEDA and the HorizontalPodAutoscaler make of a ScaledObject, on a clock of the caller's.

KEDA starts the first replica while a trigger is active, that is, above 0, and ends the last one once none has been for
`cooldownPeriod`. In between the HPA wants ceil(value / threshold) replicas for the trigger that asks for most, unless
that is within a tenth of what there is, and ends replicas only if less was wanted for the whole stabilization window.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis

from tests.kubernetes.chart import Manifest, manifests

TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance
SYNC_S = 15.0  # --horizontal-pod-autoscaler-sync-period

Values = Sequence[float | None]  # of each trigger; None: it can't be read


class Autoscaler:
    """Call `step` at each polling interval with the triggers' values; `replicas` is what there should be."""

    def __init__(self, scaled_object: Manifest, sync_s: float = SYNC_S) -> None:
        spec = scaled_object["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        self.triggers: list[Manifest] = spec["triggers"]
        self.polling_s: float = spec["pollingInterval"]
        self.replicas = 1  # a Deployment without `replicas` starts with one
        self._thresholds = [threshold_of(trigger) for trigger in self.triggers]
        self._minimum, self._maximum = spec["minReplicaCount"], spec["maxReplicaCount"]
        self._cooldown_s: float = spec["cooldownPeriod"]
        self._initial_cooldown_s: float = spec["initialCooldownPeriod"]
        self._down_window_s: float = behavior["scaleDown"]["stabilizationWindowSeconds"]
        self._up = {policy["type"]: policy["value"] for policy in behavior["scaleUp"]["policies"]}
        self._sync_s = sync_s
        self._created_at: float | None = None
        self._active_at: float | None = None
        self._synced_at = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()

    def step(self, values: Values, now: float) -> int:
        self._created_at = now if self._created_at is None else self._created_at
        if any(value is not None and value > 0 for value in values):
            self._active_at = now
            if self.replicas == 0:
                self.replicas = max(1, self._minimum)
                self._wanted.clear()
        elif None not in values and self._may_end(now):
            self.replicas = 0
        if self.replicas and now - self._synced_at >= self._sync_s:
            self._synced_at = now
            self._sync(values, now)
        return self.replicas

    def desired(self, values: Values) -> int:
        """Return how many replicas the HPA wants, without its windows. A trigger that can't be read keeps what there
        is, unless another wants more."""
        current = max(1, self.replicas)
        wanted = []
        for value, threshold in zip(values, self._thresholds, strict=True):
            if value is None or abs(value / (threshold * current) - 1) <= TOLERANCE:
                wanted.append(current)
            else:
                wanted.append(math.ceil(value / threshold))
        return min(self._maximum, max(*wanted, 1, self._minimum))

    def _may_end(self, now: float) -> bool:
        if self._minimum or self._created_at is None:
            return False
        if self._active_at is None:
            return now - self._created_at >= self._initial_cooldown_s
        return now - self._active_at >= self._cooldown_s

    def _sync(self, values: Values, now: float) -> None:
        wanted = self.desired(values)
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self._down_window_s:
            self._wanted.popleft()
        stabilized = min(self.replicas, max(each for _, each in self._wanted))
        most = max(self.replicas * (1 + self._up["Percent"] / 100), self.replicas + self._up["Pods"])
        self.replicas = max(stabilized, min(wanted, int(most)))


def threshold_of(trigger: Manifest) -> float:
    metadata = trigger["metadata"]
    return float(metadata["threshold"] if trigger["type"] == "prometheus" else metadata["streamLength"])


def read_trigger(trigger: Manifest, prometheus: Callable[[str], float | None]) -> float | None:
    """Return the value of a trigger as KEDA's scaler reads it."""
    metadata = trigger["metadata"]
    if trigger["type"] == "prometheus":
        return prometheus(metadata["query"])
    assert "consumerGroup" not in metadata  # with one, KEDA reads something else
    host, _, port = metadata["address"].rpartition(":")
    with redis.Redis(host, int(port), int(metadata["databaseIndex"])) as client:
        return float(client.xlen(metadata["stream"]))  # type: ignore[arg-type]  # never an awaitable here


def scaled_object(model: str, **autoscaling: Any) -> Manifest:
    """Render the ScaledObject of a model, with these values of `autoscaling`; `url` is the broker's."""
    url, window = autoscaling.pop("url", ""), autoscaling.pop("rateWindow", "1m")
    worker = {"model": model, "path": model, "autoscaling": {"enabled": True, **autoscaling}}
    given = {"workers": [worker], "broker": {"url": url}, "keda": {"prometheus": {"rateWindow": window}}}
    return next(each for each in manifests(given) if each["kind"] == "ScaledObject")
