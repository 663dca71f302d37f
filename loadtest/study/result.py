"""What a study came to: the document that plots and report are made of."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState

from loadtest.study.search import recommended, tried
from loadtest.study.space import DEFAULTS, Settings, Space

WORKERS = "--workers"


def document(study: optuna.Study, space: Space, **facts: Any) -> dict[str, Any]:
    """`trials`: every setting that was tried, with its levels; `best` is its best level within the latency."""
    trials = [
        {
            "settings": settings._asdict(),
            "pruned": trial.state == TrialState.PRUNED,
            "best": trial.user_attrs.get("best"),
            "levels": trial.user_attrs["levels"],
        }
        for settings, trial in tried(study).items()
    ]
    found = recommended(study)
    settings, reached = found if found else (None, None)
    return {
        **facts,
        "asked": dict(study.user_attrs["asked"]),
        "space": space._asdict(),
        "trials": trials,
        "recommended": settings._asdict() if settings else None,
        "reached": reached._asdict() if reached else None,
        "confirmed": study.user_attrs.get("confirmed", []) if found else [],
        "default": _default(trials),
    }


def _default(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the settings reached that a worker has of itself."""
    for trial in trials:
        if all(trial["settings"][name] == value for name, value in DEFAULTS.items()):
            return trial["best"]
    return None


def environment(settings: dict[str, Any]) -> str:
    """The settings as lines for an env file, a shell or compose; how many workers is no setting."""
    point = Settings(**settings)
    return "\n".join(
        (
            f"MAX_BATCH_SIZE={point.MAX_BATCH_SIZE}",
            f"MAX_WAIT_TIME={point.MAX_WAIT_TIME:g}",
            f"DECODE_THREADS={point.DECODE_THREADS}",
            f"# workers: {point.workers}",
        )
    )


def served(result: dict[str, Any]) -> dict[str, Any] | None:
    """The open loop's level that kept the latency, if one did."""
    return next((level for level in result["confirmed"] if level["meets"]), None)
