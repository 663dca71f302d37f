"""A report as one HTML file with embedded styles and images, and without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.lead { color: #5b6067; margin-top: 0 } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } caption { text-align: left; color: #5b6067 }
th, td { padding: .35rem .7rem .35rem 0; text-align: right; border-bottom: 1px solid #e3e5e8; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.strong td { font-weight: 600; background: #eef5f7 }
img { width: 100%; height: auto; margin: .6rem 0 } pre { white-space: pre-wrap;
  background: #f4f5f6; padding: .8rem 1rem; overflow-x: auto }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem } dt { color: #5b6067 } dd { margin: 0 }
"""


def write(
    folder: Path, title: str, lead: str, parts: Iterable[str], machine: dict[str, Any], method: Iterable[str]
) -> Path:
    """Write report.html: the parts, then the machine (as `machine.describe` returns it) and the method."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    where = {
        "processor": f"{machine['cpu']}, {machine['cores']} cores",
        "memory": f"{machine['memory_gb']} GB",
        "system": f"{machine['system']}, Python {machine['python']}",
        "packages": packages,
        "commit": machine["commit"] or "unknown",
        "load average before": ", ".join(map(str, machine["load_average_before"])),
    }
    body = [*parts, heading("Machine"), definitions(where), heading("Method"), *map(paragraph, method)]
    path = folder / "report.html"
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n' + "\n".join(body) + "\n</html>\n"
    )
    return path


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], strong: Sequence[int] = ()) -> str:
    """Make a table. `strong`: indices of the rows to highlight."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [
        ('<tr class="strong">' if number in strong else "<tr>") + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        for number, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table>\n<tr>{cells}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def definitions(pairs: dict[str, Any]) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return "<dl>" + "".join(rows) + "</dl>"


def image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def milliseconds(value: float | None) -> str:
    """Format as 12 ms, 1.5 s or 2 min; None as a dash."""
    if value is None:
        return "–"
    if value >= 120_000:
        return f"{value / 60_000:.3g} min"
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"
