"""Common parts of the fuzzers: each call gets one body and may raise only the target's errors.

    python -m tests.fuzz.json_body -max_total_time=60

A call must end within TIME_S and MEMORY_MB and raise only errors that the target names. Anything else is a finding, and
libFuzzer writes its input to the working directory. Further options are libFuzzer's (`-help=1`). `seeds()` of each
fuzzer makes the seeds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

TIME_S = 5  # for inputs of MAX_BYTES; a busy machine takes several times as long as an idle one
MEMORY_MB = 1024  # resident, with torch loaded
MAX_BYTES = 64 * 1024


def guided_by(*modules: str) -> AbstractContextManager[None]:
    """Import the fuzzed modules inside this block, so that their branches guide the search.

    Without atheris it does nothing, so that tests can import a fuzzer for its seeds.
    """
    if not _fuzzing():
        return nullcontext()
    import atheris

    # importing it defines this name
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
    """Return whether this process is `python -m tests.fuzz.…`."""
    return getattr(sys.modules["__main__"], "__package__", None) == __package__
