"""The search: each trial is one setting, climbed until the latency asked for is passed. Kept on disk by Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from loadtest.drive.order import Load
from loadtest.study.levels import Level, best, climb
from loadtest.study.progress import Progress
from loadtest.study.space import Settings, Space
from loadtest.study.system import Tuned

NAME = "smartbatch"
JOURNAL = "study.journal"
STARTUP_TRIALS = 5
SEED = 1
CONFIRM_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)  # of what the closed loop reached


class OtherStudy(Exception):
    """The storage holds a study of something else."""


def open_study(folder: Path, asked: dict[str, Any]) -> optuna.Study:
    """Make the study, or take it up. Raises OtherStudy."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=NAME,
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=STARTUP_TRIALS),
        # A long window looks bad while few ask, so nothing is judged before half of the ladder.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=len(asked["users"]) // 2),
    )
    held = study.user_attrs.get("asked", asked)
    if other := [f"{key} {held.get(key)!r}, not {asked[key]!r}" for key in asked if held.get(key) != asked[key]]:
        raise OtherStudy(
            f"{folder} holds a study with {'; '.join(other)}. To go on with it, ask for the same; "
            "otherwise name another --out, or --fresh to throw it away"
        )
    study.set_user_attr("asked", asked)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # it was broken off
    return study


class Search:
    """Owns nothing; the system, the study and the progress are its caller's."""

    def __init__(self, study: optuna.Study, space: Space, ladder: tuple[int, ...], p99_ms: float, seconds: int) -> None:
        self._study = study
        self._space = space
        self._ladder = ladder
        self._p99_ms = p99_ms
        self._seconds = seconds

    def run(self, trials: int, system: Tuned, progress: Progress) -> None:
        """Search until so many settings have been tried, those of earlier runs included."""
        default = self._space.default()
        if default and not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(default)
        progress.begin(trials, len(tried(self._study)))
        while len(tried(self._study)) < min(trials, self._space.points):
            trial = self._study.ask()
            settings = self._space.suggest(trial)
            if known := tried(self._study).get(settings):
                self._study.tell(trial, known.value if known.state == TrialState.COMPLETE else 0.0)
                self._study.enqueue_trial(self._space.other_than(tried(self._study)))
                continue
            self._try(trial, settings, system, progress)

    def _try(self, trial: optuna.Trial, settings: Settings, system: Tuned, progress: Progress) -> None:
        levels: list[Level] = []
        progress.enter(settings)

        def told(measured: Level) -> None:
            levels.append(measured)
            progress.level(measured)
            reached = best(levels, self._p99_ms)
            trial.report(reached.throughput_rps if reached else 0.0, len(levels) - 1)
            if trial.should_prune():
                raise optuna.TrialPruned

        state, value = TrialState.COMPLETE, None
        system.apply(settings)
        try:
            climb(self._ladder, lambda users: system.measure(Load("closed", users), self._seconds), self._p99_ms, told)
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        trial.set_user_attr("levels", [each._asdict() for each in levels])
        if reached := best(levels, self._p99_ms):
            trial.set_user_attr("best", reached._asdict())
        if state == TrialState.COMPLETE:
            value = reached.throughput_rps if reached else 0.0
        self._study.tell(trial, value, state=state)
        progress.leave(settings, reached, pruned=state == TrialState.PRUNED)

    def confirm(self, system: Tuned, progress: Progress) -> list[dict[str, Any]]:
        """Offer the best settings requests that come at their own pace, fewer and fewer until the latency is kept.

        A closed loop asks less of a slow server, so what it reached can't be had from clients that don't wait.
        """
        found = recommended(self._study)
        if found is None:
            return []
        settings, reached = found
        if self._study.user_attrs.get("confirmed_for") == list(settings):
            return self._study.user_attrs["confirmed"]
        system.apply(settings)
        confirmed = []
        for share in CONFIRM_SHARES:
            rate = float(f"{share * reached.throughput_rps:.3g}")
            progress.say(f"confirming {settings}: open loop, {rate:g} req/s")
            measured = system.measure(Load("open", rate), 2 * self._seconds)
            meets = measured.meets(self._p99_ms)
            confirmed.append({**measured._asdict(), "meets": meets})
            if meets:
                break
        self._study.set_user_attr("confirmed", confirmed)
        self._study.set_user_attr("confirmed_for", list(settings))
        return confirmed


def tried(study: optuna.Study) -> dict[Settings, optuna.trial.FrozenTrial]:
    """The trial that measured each setting; one that was broken off, or only repeated another, measured nothing."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {Settings(**trial.params): trial for trial in done if "levels" in trial.user_attrs}


def recommended(study: optuna.Study) -> tuple[Settings, Level] | None:
    """The settings that served most within the latency, and the level at which they did; None if none did."""
    meeting = {
        settings: Level(**trial.user_attrs["best"])
        for settings, trial in tried(study).items()
        if trial.state == TrialState.COMPLETE and "best" in trial.user_attrs
    }
    if not meeting:
        return None
    settings = max(meeting, key=lambda each: meeting[each].throughput_rps)
    return settings, meeting[settings]
