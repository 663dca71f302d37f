"""The search: each trial measures one point of the space. Optuna chooses the points and stores the trials on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from loadtest.cli import check_same
from loadtest.generator.process import Load
from loadtest.progress import Progress, log
from loadtest.study.levels import Level, best, climb
from loadtest.study.space import DEFAULTS, Settings, Space
from loadtest.study.tuned import TunedSystem

NAME = "smartbatch"
JOURNAL = "study.journal"
STARTUP_TRIALS = 5
SEED = 1
CONFIRM_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the closed loop's throughput


def open_study(folder: Path, parameters: dict[str, Any]) -> optuna.Study:
    """Create the study, or resume it. Raises DifferentRun."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=NAME,
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=STARTUP_TRIALS),
        # A long window performs badly with few users, so nothing is pruned in the first half of the loads.
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=STARTUP_TRIALS, n_warmup_steps=len(parameters["users"]) // 2
        ),
    )
    check_same(folder, study.user_attrs.get("parameters", parameters), parameters)
    study.set_user_attr("parameters", parameters)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # interrupted in an earlier run
    return study


class Search:
    """Runs trials. The caller owns study, system and progress."""

    def __init__(self, study: optuna.Study, space: Space, system: TunedSystem, progress: Progress) -> None:
        self._study = study
        self._space = space
        self._system = system
        self._progress = progress
        parameters = study.user_attrs["parameters"]
        self._users, self._p99_ms, self._seconds = parameters["users"], parameters["p99_ms"], parameters["seconds"]

    def run(self, trials: int) -> None:
        """Search until `trials` points have been tried, including those of earlier runs."""
        study = self._study
        default = self._space.default()
        if default and not study.get_trials(deepcopy=False):
            study.enqueue_trial(default)
        before, begin = len(tried(study)), time.monotonic()
        if before:
            log(f"resuming: {before} of {trials} settings were tried before")
        while (done := len(tried(study))) < min(trials, self._space.points):
            trial = study.ask()
            settings = self._space.suggest(trial)
            if known := tried(study).get(settings):
                study.tell(trial, known.value if known.state == TrialState.COMPLETE else 0.0)
                study.enqueue_trial(self._space.other_than(tried(study)))
                continue
            title = f"{done + 1}/{trials}"
            if done > before:
                left_s = (time.monotonic() - begin) / (done - before) * (trials - done)
                title += f", about {left_s / 60:.0f} min to go"
            outcome = self._try(trial, settings, f"{title}: {settings}")
            log(f"{done + 1}/{trials}  {settings}  {outcome}")

    def _try(self, trial: optuna.Trial, settings: Settings, title: str) -> str:
        """Measure one point, report it to the study, and return the outcome for the log."""
        levels: list[Level] = []

        def measure(users: int) -> Level:
            return self._system.measure(Load("closed", users), self._seconds)

        def report(measured: Level) -> None:
            levels.append(measured)
            self._progress.show(f"{title}: {measured}")
            reached = best(levels, self._p99_ms)
            trial.report(reached.throughput_rps if reached else 0.0, len(levels) - 1)
            if trial.should_prune():
                raise optuna.TrialPruned

        self._progress.show(f"{title}: applying")
        self._system.apply(settings)
        pruned = False
        try:
            climb(self._users, measure, self._p99_ms, report)
        except optuna.TrialPruned:
            pruned = True
        trial.set_user_attr("levels", [each._asdict() for each in levels])
        reached = best(levels, self._p99_ms)
        if reached:
            trial.set_user_attr("best", reached._asdict())
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            return "pruned"
        self._study.tell(trial, reached.throughput_rps if reached else 0.0)
        return str(reached) if reached else "not within the latency at any load"

    def confirm(self) -> None:
        """Measure the best settings in an open loop, at decreasing rates until the objective is met.

        A closed loop sends less to a slow server, so independent clients cannot expect its throughput.
        """
        best_settings = recommended(self._study)
        if best_settings is None or self._study.user_attrs.get("confirmed_for") == list(best_settings[0]):
            return
        settings, reached = best_settings
        self._system.apply(settings)
        confirmed = []
        for share in CONFIRM_SHARES:
            rate = float(f"{share * reached.throughput_rps:.3g}")
            log(f"confirming {settings}: open loop, {rate:g} req/s")
            measured = self._system.measure(Load("open", rate), 2 * self._seconds)
            meets = measured.meets(self._p99_ms)
            confirmed.append({**measured._asdict(), "meets": meets})
            if meets:
                break
        self._study.set_user_attr("confirmed", confirmed)
        self._study.set_user_attr("confirmed_for", list(settings))


def tried(study: optuna.Study) -> dict[Settings, optuna.trial.FrozenTrial]:
    """Return the trial that measured each point, without interrupted trials and repetitions."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {Settings(**trial.params): trial for trial in done if "levels" in trial.user_attrs}


def recommended(study: optuna.Study) -> tuple[Settings, Level] | None:
    """Return the settings with the highest throughput within the objective, and its level; None if none met it."""
    meeting = [
        (settings, Level(**trial.user_attrs["best"]))
        for settings, trial in tried(study).items()
        if trial.state == TrialState.COMPLETE and "best" in trial.user_attrs
    ]
    return max(meeting, key=lambda each: each[1].throughput_rps, default=None)


def document(study: optuna.Study, space: Space, **metadata: Any) -> dict[str, Any]:
    """Return the result, from which plots and report are made. `best`: a trial's best level within the objective."""
    trials = [
        {
            "settings": settings._asdict(),
            "pruned": trial.state == TrialState.PRUNED,
            "best": trial.user_attrs.get("best"),
            "levels": trial.user_attrs["levels"],
        }
        for settings, trial in tried(study).items()
    ]
    settings, reached = recommended(study) or (None, None)
    defaults = (trial["best"] for trial in trials if DEFAULTS.items() <= trial["settings"].items())
    return {
        **metadata,
        "parameters": dict(study.user_attrs["parameters"]),
        "space": space._asdict(),
        "trials": trials,
        "recommended": settings._asdict() if settings else None,
        "reached": reached._asdict() if reached else None,
        "confirmed": study.user_attrs.get("confirmed", []) if settings else [],
        "default": next(defaults, None),
    }
