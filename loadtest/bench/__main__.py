"""python -m loadtest.bench [--only E,S] [--quick] [--out bench-results]"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from loadtest.bench import machine, report
from loadtest.bench.figures import Outcome, Run
from loadtest.bench.rows import ROWS

OPEN_FILES = 8192


def main() -> None:
    options = _options()
    _allow_open_files()
    run = Run(quick=options.quick)
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    described = machine.describe()
    started = time.time()
    for name in options.only:
        try:
            outcomes[name] = ROWS[name](run)
        except Exception as error:  # the other rows' hour isn't lost
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    document = report.document(
        outcomes,
        failed,
        described,
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        took_s=round(time.time() - started, 1),
        quick=options.quick,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    result = options.out / "bench.json"
    result.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    plots = plot(document, options.out)
    print(report.table(outcomes, failed))
    python = f"Python {described['python']} ({described['python_loop_ms']} ms)"
    print(f"\n{described['cpu']}, {described['cores']} cores; {python}; generator {described['generator']}")
    print(*(f"{path}" for path in (result, *plots)), sep="\n")
    sys.exit(1 if failed else 0)  # a goal that was missed is a result, not a failure


def plot(document: dict[str, Any], folder: Path) -> list[Path]:
    try:
        from loadtest.bench.plots import draw
    except ImportError:
        print("no plots: pip install 'smartbatch[loadtest]'", file=sys.stderr)
        return []
    return draw(document, folder)


def _allow_open_files() -> None:
    """Thousands of connections, at both ends: many systems allow 1,024 files unless asked. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure every goal on this machine.")
    parser.add_argument("--only", default="", help=f"rows, by comma: {','.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a second each: does it work, not how fast is it")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="the folder for results")
    options = parser.parse_args()
    options.only = [name for name in options.only.split(",") if name] or list(ROWS)
    if unknown := set(options.only) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return options


if __name__ == "__main__":
    main()
