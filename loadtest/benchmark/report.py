"""A result as a table for the terminal, and as one HTML file with the plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.benchmark.plots import PLOTS
from loadtest.generator.process import Load
from loadtest.report import page
from loadtest.report.page import milliseconds

HEAD = ("load", "", "ok/s", "p50", "p95", "p99", "errors", "refused", "batch", "CPU s/1,000", "late")
DISTURBED_CORES = 0.3
METHOD = (
    "Both sides run the same model code with the same settings, and read the same bodies. The baseline runs one "
    "request at a time behind Starlette, in one process. For each load each side is started anew, gets each body "
    "alone, is warmed up without counting, and is measured.",
    "In a closed loop each user sends again when it has its response, so a slow server gets less load: that hides how "
    "far behind it would fall. In an open loop requests arrive independently (Poisson, the same in each run), and "
    "latency runs from a request's intended start. Its percentiles include requests without a response, with the time "
    "they had waited. “Late” is the generator's own part: the p99 of how much it missed its schedule by. Where that is "
    "near the latency, the machine is too small for generator and servers.",
    "A response counts if its status is 200; one in twenty is compared with what the same body got alone. 503 with "
    "Retry-After is a refusal. “Batch” is the mean number of rows in one, “CPU s/1,000” what the servers spent on a "
    "thousand successes. Generator and servers share the machine's cores.",
)


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A line for each phase and, below each pair, how many times better SmartBatch is."""
    lines = []
    for gains in result["improvement"]:
        load = Load(**gains["load"])
        lines += [_phase(load, phase) for phase in result["phases"] if Load(**phase["load"]) == load]
        factors = [gains.get(name) for name in ("throughput", "p50", "p95", "p99")]
        lines.append(["", "improvement", *(f"{factor:.2f}×" if factor else "–" for factor in factors), *[""] * 5])
    return lines


def _phase(load: Load, phase: dict[str, Any]) -> list[str]:
    batch, cpu, late = phase["mean_batch_rows"], phase["cpu_s_per_1000"], phase["late_p99_ms"]
    return [
        f"{load.kind}, {load}",
        phase["title"],
        f"{phase['throughput_rps']:,.1f}",
        *(milliseconds(phase[f"p{percent}_ms"]) for percent in (50, 95, 99)),
        f"{phase['errors']:,}",
        f"{phase['refused']:,}",
        "1" if phase["side"] == "baseline" else f"{batch:.1f}" if batch else "–",
        f"{cpu:,.2f}" if cpu else "–",
        milliseconds(late) if late else "",
    ]


def text(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *rows(result)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def disturbance(result: dict[str, Any]) -> str:
    """A warning if other processes took a noticeable part of this machine; empty if none did."""
    most = max((phase["others_cores"] or 0.0 for phase in result["phases"]), default=0.0)
    if most < DISTURBED_CORES:
        return ""
    return (
        f"Other processes kept up to {most:.1f} of {result['machine']['cores']} cores busy, "
        "so these figures are unreliable; measure again on a quiet machine."
    )


def agreement(result: dict[str, Any]) -> str:
    """The outcome of the checks, in a sentence or two."""
    agreed, totals = result["agreement"], result["totals"]
    disagreeing = f" (not {', '.join(agreed['disagreeing'])})" if agreed["disagreeing"] else ""
    return (
        f"Both sides gave the same result for {agreed['agree']} of {agreed['bodies']} bodies sent alone{disagreeing}. "
        f"Under load {totals['checked']:,} responses were compared, {totals['wrong']:,} of them were wrong."
    )


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html beside the plots, which are put into it."""
    plan, sent = result["plan"], result["sent"]
    lines = rows(result)
    settings = {"MODEL_PATH": plan["model"], "MODEL_WEIGHTS": plan["weights"], **plan["settings"]}
    measured = {
        "model": plan["model"],
        "requests": f"{sent['scenario']}: {sent['bodies']} bodies of {sent['least']:,} to {sent['most']:,} bytes",
        "each phase": f"{plan['duration_s']} s",
        "workers": plan["workers"],
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
    }
    parts = [
        page.table(HEAD, lines, strong=[number for number, line in enumerate(lines) if line[1] == "improvement"]),
        page.paragraph(f"{agreement(result)} {disturbance(result)}"),
        page.code(result["command"]),
        *(page.image(folder / name, title) for name, (title, _, _) in PLOTS.items()),
        page.heading("Parameters"),
        page.definitions(measured),
    ]
    lead = f"{plan['model']} at {result['finished_at']}"
    return page.write(folder, "What batching buys", lead, parts, result["machine"], METHOD)
