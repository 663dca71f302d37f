"""Format the result of a study for the terminal and as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.report import page
from loadtest.report.page import milliseconds
from loadtest.study.plots import HEAT_MAP, PARETO
from loadtest.study.space import Settings

HEAD = ("settings", "ok/s", "p50", "p99", "rows per batch", "at")
METHOD = (
    "Each setting was measured with increasing numbers of users, each of whom sends again once it has its response, "
    "until its p99 exceeded the objective, requests failed or were rejected, or throughput grew by less than 3 %. The "
    "result of a setting is its highest throughput within the objective.",
    "Optuna (TPE) chose the settings to try, and pruned those far behind the median of the others at the same number "
    "of users. MAX_BATCH_SIZE and MAX_WAIT_TIME were changed on running workers (smartbatch limits), so the model was "
    "loaded again only for another number of workers or decode threads.",
    "The best setting was then confirmed in an open loop (Poisson arrivals), at 90 % of its throughput and less until "
    "the objective was met: independent clients load a server more than a closed loop does.",
    "Levels are short; settings within a few percent of each other may change places in another run.",
)


def environment(settings: dict[str, Any]) -> str:
    """Format the settings as lines for an env file. The number of workers is not a setting, so it is a comment."""
    point = Settings(**settings)
    return (
        f"MAX_BATCH_SIZE={point.MAX_BATCH_SIZE}\nMAX_WAIT_TIME={point.MAX_WAIT_TIME:g}\n"
        f"DECODE_THREADS={point.DECODE_THREADS}\n# workers: {point.workers}"
    )


def text(result: dict[str, Any]) -> str:
    """Return the summary that is printed at the end."""
    objective = milliseconds(result["parameters"]["p99_ms"])
    if result["recommended"] is None:
        return (
            f"No setting kept a p99 of {objective} under any load that was tried. Choose a longer one, "
            "or less load (--users 1,2,4)."
        )
    lines = [
        f"Highest throughput within a p99 of {objective}:",
        "",
        environment(result["recommended"]),
        "",
        _gain(result),
    ]
    if level := next((level for level in result["confirmed"] if level["meets"]), None):
        p99 = milliseconds(level["p99_ms"])
        lines.append(f"Confirmed with independent arrivals: {level['load']:,.4g} requests/s, p99 {p99}.")
    elif result["confirmed"]:
        rates = ", ".join(f"{level['load']:,.4g}" for level in result["confirmed"])
        lines.append(f"Not confirmed: with independent arrivals the p99 was longer at {rates} requests/s.")
    return "\n".join(lines)


def _gain(result: dict[str, Any]) -> str:
    reached, default = result["reached"], result["default"]
    p99 = milliseconds(reached["p99_ms"])
    text = f"{reached['throughput_rps']:,.1f} requests/s with {reached['load']:g} users, p99 {p99}."
    if default and default["throughput_rps"]:
        text += f" The defaults: {default['throughput_rps']:,.1f}."
    return text


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a line for each setting, the best first."""
    ordered = sorted(result["trials"], key=lambda trial: -(trial["best"] or {"throughput_rps": 0})["throughput_rps"])
    return [_row(trial) for trial in ordered]


def _row(trial: dict[str, Any]) -> list[str]:
    name, level = str(Settings(**trial["settings"])), trial["best"]
    if level is None:
        return [name, "pruned" if trial["pruned"] else "too slow", "", "", "", ""]
    return [
        f"{name}{' (pruned)' if trial['pruned'] else ''}",
        f"{level['throughput_rps']:,.1f}",
        milliseconds(level["p50_ms"]),
        milliseconds(level["p99_ms"]),
        f"{level['batch_rows']:.1f}" if level["batch_rows"] else "–",
        f"{level['load']:g} users",
    ]


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html into the folder of the plots, which it embeds."""
    parameters = result["parameters"]
    parts = [
        page.code(text(result)),
        page.image(folder / HEAT_MAP, "Throughput by MAX_BATCH_SIZE and MAX_WAIT_TIME"),
        page.image(folder / PARETO, "Throughput and latency of every level"),
        page.heading("All settings tried"),
        page.table(HEAD, rows(result), strong=[0] if result["recommended"] else []),
        page.heading("Parameters"),
        page.definitions({**parameters, "requests": result["sent"], "command": result["command"]}),
    ]
    lead = f"{parameters['model']}, a p99 of at most {milliseconds(parameters['p99_ms'])}, at {result['finished_at']}"
    return page.write(folder, "The settings with the highest throughput", lead, parts, result["machine"], METHOD)
