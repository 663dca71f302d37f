"""What the generator is told, as a JSON file."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtest.traffic.bodies import Body

GIVE_UP_S = 120.0


@dataclass(frozen=True)
class Load:
    """`closed`: so many users, each sends again once it is answered. `open`: so many requests a second, sent whatever
    became of those before."""

    kind: Literal["closed", "open"]
    amount: float  # users, or requests a second

    def __str__(self) -> str:
        return f"{self.amount:,g} users" if self.kind == "closed" else f"{self.amount:,.4g} req/s"


@dataclass(frozen=True)
class Order:
    """`warm_s`: not counted; a closed loop warms up until each user has been answered once, `warm_most_s` at most.
    One answer in `check_every` is compared with `references` (body name → result)."""

    port: int
    load: Load
    seconds: int
    bodies: list[Body]
    references: dict[str, Any]
    warm_s: float = 2.0
    warm_most_s: float = 60.0
    check_every: int = 20
    give_up_s: float = GIVE_UP_S
    seed: int = 1
    headers: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        document = asdict(self)
        document["bodies"] = [
            {**body._asdict(), "content": base64.b64encode(body.content).decode()} for body in self.bodies
        ]
        path.write_text(json.dumps(document))

    @staticmethod
    def read(path: Path) -> Order:
        document = json.loads(path.read_text())
        bodies = [Body(**{**body, "content": base64.b64decode(body["content"])}) for body in document.pop("bodies")]
        return Order(load=Load(**document.pop("load")), bodies=bodies, **document)
