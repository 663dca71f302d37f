"""python loadtest/study_params.py --p99 100ms [--model … --trials … --out DIR]

Which MAX_BATCH_SIZE and MAX_WAIT_TIME serve most within a latency? docs/load-testing.md says how it is searched.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # where loadtest is a package; this folder's files are no modules
    from loadtest.study.command import command

    command()
