"""The table of a result: for the terminal, for a README, and in one HTML file with the plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.drive import page
from loadtest.drive.charts import milliseconds
from loadtest.drive.order import Load
from loadtest.production.plots import PLOTS

HEAD = (
    "load",
    "",
    "answers/s",
    "p50",
    "p95",
    "p99",
    "errors",
    "refused",
    "batch",
    "CPU s/1,000",
    "late",
)
DISTURBED_CORES = 0.3
METHOD = (
    "Both sides run the same model code with the same settings, and read the same bodies. The baseline runs one "
    "request at a time behind Starlette, in one process. Each side is started anew for each load, asked each body "
    "alone, warmed up without counting, and measured; then it is stopped.",
    "In a closed loop each user sends again once it is answered, so a slow server is asked less: that hides how far "
    "behind it would fall. In an open loop requests come at their own pace (Poisson, the same in each run), and "
    "latency runs from the moment a request was to be sent. There percentiles hold also what was never answered, with "
    "the time it had waited. “Late” is the generator's own part: the p99 of how much it missed its schedule by. "
    "Where that is near the latency, the machine is too small for generator and servers.",
    "An answer counts if its status is 200; of every twenty, one is compared with what the same body was answered "
    "alone. 503 with Retry-After is a refusal. “Batch” is the mean number of rows in one, “CPU s/1,000” what the "
    "servers spent on a thousand right answers. Generator and servers share the machine's cores.",
)


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A line for each phase and, below each pair, how many times better SmartBatch is."""
    lines = []
    for gains in result["improvement"]:
        load = Load(**gains["load"])
        pair = [phase for phase in result["phases"] if Load(**phase["load"]) == load]
        lines += [_phase(load, phase) for phase in pair]
        factors = [_times(gains.get(name)) for name in ("throughput", "p50", "p95", "p99")]
        lines.append(["", "improvement", *factors, "", "", "", "", ""])
    return lines


def text(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *rows(result)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _phase(load: Load, phase: dict[str, Any]) -> list[str]:
    batch, cpu = phase["mean_batch_rows"], phase["cpu_s_per_1000"]
    return [
        f"{load.kind}, {load}",
        phase["title"],
        f"{phase['throughput_rps']:,.1f}",
        *(milliseconds(value) if (value := phase[f"p{percent}_ms"]) else "–" for percent in (50, 95, 99)),
        f"{phase['errors']:,}",
        f"{phase['refused']:,}",
        "1" if phase["side"] == "baseline" else f"{batch:.1f}" if batch else "–",
        f"{cpu:,.2f}" if cpu else "–",
        milliseconds(late) if (late := phase["late_p99_ms"]) else "",
    ]


def disturbance(result: dict[str, Any]) -> str:
    """A warning if other processes took a noticeable part of this machine; empty if none did."""
    most = max((phase["others_cores"] or 0.0 for phase in result["phases"]), default=0.0)
    if most < DISTURBED_CORES:
        return ""
    return (
        f"Other processes kept up to {most:.1f} of {result['machine']['cores']} cores busy meanwhile, "
        "so the figures say little; measure again on a quiet machine."
    )


def _times(value: float | None) -> str:
    return f"{value:.2f}×" if value else "–"


def agreement(result: dict[str, Any]) -> str:
    """What the checks of the answers came to, in a sentence or two."""
    agreed, totals = result["agreement"], result["totals"]
    said = f"Both sides answered {agreed['agree']} of {agreed['bodies']} bodies alike, asked alone"
    if agreed["disagreeing"]:
        said += f" (not {', '.join(agreed['disagreeing'])})"
    return f"{said}. Under load {totals['checked']:,} answers were compared, {totals['wrong']:,} of them were wrong."


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html beside the plots, which are put into it."""
    plan = result["plan"]
    lines = rows(result)
    settings = {"MODEL_PATH": plan["model"], "MODEL_WEIGHTS": plan["weights"], **plan["settings"]}
    parts = [
        page.table(HEAD, lines, strong=[number for number, line in enumerate(lines) if line[1] == "improvement"]),
        page.paragraph(f"{agreement(result)} {disturbance(result)}"),
        page.code(result["command"]),
        *(page.image(folder / name, title) for name, (title, _, _) in PLOTS.items()),
        page.heading("What was measured"),
        page.facts(
            [
                ("model", plan["model"]),
                ("requests", _sent(result["sent"])),
                ("each phase", f"{plan['duration_s']} s"),
                ("workers", plan["workers"]),
                ("settings", ", ".join(f"{name}={value}" for name, value in settings.items())),
            ]
        ),
        page.heading("Where"),
        page.facts(page.machine_facts(result["machine"])),
        page.heading("How"),
        *map(page.paragraph, METHOD),
    ]
    path = folder / "report.html"
    path.write_text(page.page("What batching buys", f"{plan['model']} at {result['finished_at']}", parts))
    return path


def _sent(sent: dict[str, Any]) -> str:
    return f"{sent['scenario']}: {sent['bodies']} bodies of {sent['least']:,} to {sent['most']:,} bytes"
