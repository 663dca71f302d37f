"""python loadtest/production_benchmark.py --users 200 --duration 1h [--model … --scenario … --out DIR]

What does batching buy, for this model on this machine? docs/load-testing.md says how it is measured.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # where loadtest is a package; this folder's files are no modules
    from loadtest.production.command import command

    command()
