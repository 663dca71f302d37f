""".venv/bin/python loadtest/production_benchmark.py …: the same as python -m loadtest.benchmark …"""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the repository, where loadtest is a package
try:
    runpy.run_module("loadtest.benchmark", run_name="__main__", alter_sys=True)
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run `make benchmark` once, or install the extra `loadtest`")
