"""What the fuzzers share: one body a call, and its permitted outcomes.

    python -m tests.fuzz.json_body -max_total_time=60

Only what a target names as its errors may be raised, within TIME_S and MEMORY_MB; everything else is a finding, and
libFuzzer writes the input that made it to the working directory. Other options are libFuzzer's (`-help=1`). The seeds
are made in code: `seeds()` of each fuzzer.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

TIME_S = 5  # for inputs of MAX_BYTES; a loaded machine takes a few times what an idle one does
MEMORY_MB = 1024  # resident, with torch loaded
MAX_BYTES = 64 * 1024


def guided_by(*modules: str) -> AbstractContextManager[None]:
    """Import what is fuzzed within this: the branches taken there guide the search. Nothing is done without atheris,
    so that tests can import a fuzzer for its seeds."""
    if not _fuzzing():
        return nullcontext()
    import atheris

    # it makes this name when it is imported
    return atheris.instrument_imports(include=list(modules))  # type: ignore[attr-defined]


def fuzz(one: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Run until one of libFuzzer's limits is reached."""
    import atheris

    with tempfile.TemporaryDirectory(prefix="smartbatch-fuzz-") as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        limits = [f"-timeout={TIME_S}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MAX_BYTES}"]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], corpus], one)
        atheris.Fuzz()


def _fuzzing() -> bool:
    """Whether this process is `python -m tests.fuzz.…`."""
    return getattr(sys.modules["__main__"], "__package__", None) == __package__
