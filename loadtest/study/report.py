"""What a study came to, for the terminal and as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.drive import page
from loadtest.drive.charts import milliseconds
from loadtest.study.plots import HEAT_MAP, PARETO
from loadtest.study.result import environment, served
from loadtest.study.space import Settings

HEAD = ("settings", "answers/s", "p50", "p99", "rows a batch", "at")
METHOD = (
    "Each setting was put under more and more users, each of whom sends again once it is answered, until its p99 "
    "passed what was asked for, requests failed or were refused, or more users gained less than 3 %. What counts is "
    "the most that it served within the latency.",
    "Optuna (TPE) chose which settings to try; those far behind the median of the others under the same number of "
    "users were given up. MAX_BATCH_SIZE and MAX_WAIT_TIME were changed on running workers (smartbatch limits), so the "
    "model was loaded again only for another number of workers or decode threads.",
    "The best was then offered requests at their own pace (Poisson), starting at 90 % of what it had reached, fewer "
    "until the latency was kept: clients that don't wait for each other ask more of a server than a closed loop shows.",
    "Levels are short; settings that are within a few per cent of each other may change places in another run.",
)


def text(result: dict[str, Any]) -> str:
    """The last lines of the run."""
    asked = milliseconds(result["asked"]["p99_ms"])
    if result["recommended"] is None:
        return (
            f"No setting kept a p99 of {asked} under any load that was tried. Ask for a longer one, "
            "or for less load (--users 1,2,4)."
        )
    lines = [f"Most was served within a p99 of {asked} by", "", environment(result["recommended"]), "", _gain(result)]
    if level := served(result):
        lines.append(
            f"Confirmed with requests at their own pace: {level['load']:,.4g} a second, "
            f"p99 {milliseconds(level['p99_ms'])}."
        )
    elif result["confirmed"]:
        tried = ", ".join(f"{level['load']:,.4g}" for level in result["confirmed"])
        lines.append(f"Not confirmed: with requests at their own pace the p99 was longer at {tried} a second.")
    return "\n".join(lines)


def _gain(result: dict[str, Any]) -> str:
    reached, default = result["reached"], result["default"]
    said = f"{reached['throughput_rps']:,.1f} answers a second at {reached['load']:g} users, " + (
        f"p99 {milliseconds(reached['p99_ms'])}."
    )
    if default and default["throughput_rps"]:
        return f"{said} The defaults: {default['throughput_rps']:,.1f}."
    return said


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A line for each setting, the best first."""
    ordered = sorted(result["trials"], key=lambda trial: -(trial["best"] or {"throughput_rps": 0})["throughput_rps"])
    return [_row(trial) for trial in ordered]


def _row(trial: dict[str, Any]) -> list[str]:
    name, level = str(Settings(**trial["settings"])), trial["best"]
    if level is None:
        return [name, "given up" if trial["pruned"] else "too slow", "", "", "", ""]
    return [
        f"{name}{' (given up)' if trial['pruned'] else ''}",
        f"{level['throughput_rps']:,.1f}",
        milliseconds(level["p50_ms"]),
        milliseconds(level["p99_ms"]),
        f"{level['batch_rows']:.1f}" if level["batch_rows"] else "–",
        f"{level['load']:g} users",
    ]


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html beside the plots, which are put into it."""
    told, asked = text(result), result["asked"]
    parts = [
        page.code(told),
        page.image(folder / HEAT_MAP, "Throughput by MAX_BATCH_SIZE and MAX_WAIT_TIME"),
        page.image(folder / PARETO, "Throughput and latency of every level"),
        page.heading("Every setting that was tried"),
        page.table(HEAD, rows(result), strong=[0] if result["recommended"] else []),
        page.heading("What was asked"),
        page.facts([*asked.items(), ("requests", result["sent"]), ("command", result["command"])]),
        page.heading("Where"),
        page.facts(page.machine_facts(result["machine"])),
        page.heading("How"),
        *map(page.paragraph, METHOD),
    ]
    path = folder / "report.html"
    lead = f"{asked['model']}, a p99 of at most {milliseconds(asked['p99_ms'])}, at {result['finished_at']}"
    path.write_text(page.page("Which settings serve most", lead, parts))
    return path
