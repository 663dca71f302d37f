"""Format a result as a table for the terminal and as one HTML file with the plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.benchmark.plots import PLOTS
from loadtest.generator.process import Load
from loadtest.report import page
from loadtest.report.page import milliseconds

HEAD = ("load", "", "ok/s", "p50", "p95", "p99", "errors", "rejected", "batch", "CPU s/1,000", "late")
DISTURBED_CORES = 0.3
METHOD = (
    "Both sides run the same model code with the same settings and read the same bodies. The baseline is one Starlette "
    "process that runs one request at a time. For each load each side is started again, gets each body alone as a "
    "reference, is warmed up without counting, and is then measured.",
    "In a closed loop each user sends again once it has its response, so a slow server gets less load, which hides how "
    "far behind it would fall. In an open loop requests arrive independently (Poisson, the same in each run), and "
    "latency is measured from a request's intended start. Its percentiles include requests without a response, with "
    "the time they had waited. “Late” is the p99 of how late the generator started its requests. If it is close to the "
    "latency, the machine is too small for generator and servers.",
    "A response counts if its status is 200; one in twenty is compared with the reference of its body. 503 with "
    "Retry-After is a rejection. “Batch” is the mean number of rows per batch, “CPU s/1,000” the servers' CPU time per "
    "thousand successes. Generator and servers share the machine's cores.",
)


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a line for each phase and, below each pair, how many times better SmartBatch is."""
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
        f"{phase['rejected']:,}",
        "1" if phase["side"] == "baseline" else f"{batch:.1f}" if batch else "–",
        f"{cpu:,.2f}" if cpu else "–",
        milliseconds(late) if late else "",
    ]


def text(result: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *rows(result)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def disturbance(result: dict[str, Any]) -> str:
    """Return a warning if other processes used a noticeable part of the CPU; else an empty text."""
    most = max((phase["others_cores"] or 0.0 for phase in result["phases"]), default=0.0)
    if most < DISTURBED_CORES:
        return ""
    return (
        f"Other processes kept up to {most:.1f} of {result['machine']['cores']} cores busy, "
        "so these figures are unreliable; measure again on a quiet machine."
    )


def agreement(result: dict[str, Any]) -> str:
    """Describe the outcome of the checks in one or two sentences."""
    agreed, totals = result["agreement"], result["totals"]
    disagreeing = f" (not {', '.join(agreed['disagreeing'])})" if agreed["disagreeing"] else ""
    return (
        f"Both sides gave the same result for {agreed['agree']} of {agreed['bodies']} bodies sent alone{disagreeing}. "
        f"Under load {totals['checked']:,} responses were compared, {totals['wrong']:,} of them were wrong."
    )


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html into the folder of the plots, which it embeds."""
    plan, sent = result["plan"], result["sent"]
    lines = rows(result)
    settings = {"MODEL_PATH": plan["model"], "MODEL_WEIGHTS": plan["weights"], **plan["settings"]}
    measured = {
        "model": plan["model"],
        "requests": f"{sent['scenario']}: {sent['bodies']} bodies of {sent['min_bytes']:,}–{sent['max_bytes']:,} bytes",
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
