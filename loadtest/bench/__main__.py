"""python -m loadtest.bench [--only E,S] [--quick] [--out bench-results]"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from loadtest import machine
from loadtest.bench.figures import Outcome, document, table
from loadtest.bench.rows import ROWS
from loadtest.bench.run import Run
from loadtest.generator.loops import raise_open_files_limit


def main() -> None:
    options = _options()
    raise_open_files_limit()
    run = Run(quick=options.quick)
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    described = machine.describe()
    started = time.time()
    for name in options.only:
        try:
            outcomes[name] = ROWS[name](run)
        except Exception as error:  # the other rows' results are kept
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    result = document(
        outcomes,
        failed,
        described,
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        elapsed_s=round(time.time() - started, 1),
        quick=options.quick,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "bench.json"
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    plots = _draw(result, options.out)
    print(table(outcomes, failed))
    python = f"Python {described['python']} ({described['python_loop_ms']} ms)"
    print(f"\n{described['cpu']}, {described['cores']} cores; {python}; generator {described['generator']}")
    print(*(path, *plots), sep="\n")
    sys.exit(1 if failed else 0)  # a missed goal is a result, not a failure


def _draw(result: dict[str, Any], folder: Path) -> list[Path]:
    try:
        from loadtest.bench.plots import draw
    except ImportError:
        print("no plots: install the extra `loadtest`", file=sys.stderr)
        return []
    return draw(result, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure every goal on this machine.")
    parser.add_argument("--only", default="", help=f"rows, separated by commas: {','.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a second each: does it work, not how fast is it")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="the folder for results")
    options = parser.parse_args()
    options.only = [name for name in options.only.split(",") if name] or list(ROWS)
    if unknown := set(options.only) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return options


if __name__ == "__main__":
    main()
