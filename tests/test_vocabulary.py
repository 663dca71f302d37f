"""Words of an earlier, private vocabulary stay out of the tree. docs/glossary.md defines the words in use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXEMPT = {"docs/glossary.md", "CHANGELOG.md", "LICENSE", "tests/test_vocabulary.py"}
# Old word → the word in use.
REPLACED = {
    r"Askings?|asking_of|runs_a_model": "InferenceRequest, create_request, is_inference_path",
    r"Prompt": "fast path",
    r"[Ll]ikeness": "request head",
    r"[Dd]oorman": "ConnectionRegistry",
    r"[Rr]iders?": "entry, ClaimedEntry",
    r"[Rr]unways?": "LaunchedBatches",
    r"[Ss]eats?": "RowRef",
    r"[Cc]onvict\w*": "dead worker, detected",
    r"[Pp]atience": "ConnectionTimeouts",
    r"Said": "ParsedHead",
    r"Envelopes?": "RequestParams",
    r"[Gg]arbled": "malformed",
    r"[Bb]eside the stream": "external payload",
    r"[Kk]eyrings?": "KeyStore",
    r"[Ll]edgers?": "record of requests, UsageSync",
    r"[Oo]utbox": "response",
    r"[Ll]anes?|LaneMeters": "queue, ModelQueue, ModelMetrics",
    r"Meters|ProcessMeters": "GatewayMetrics, ProcessMetrics",
    r"TakenBack|taken_back|taken back": "CancelledByOperator, cancelled",
    r"TooLate|too_late": "DeadlineUnattainable",
    r"#wide|\w*too_wide": "#extra_rows, next_too_large",
    r"[Cc]laimers?": "Batcher",
    r"[Ii]ntake": "EntryTracker",
    r"[Ff]inishers?": "ReplyPublisher",
    r"ReplyMaker": "ReplyEncoder",
    r"ForwardTimes": "LatencyEstimator",
    r"ServiceRate": "ThroughputEstimator",
    r"RowLog": "ModelErrorLog",
    r"OnItsWay": "AsyncHostCopy",
    r"unfollowed": "run_inline",
    r"LineLimit": "LogRateLimiter",
    r"ModelMoment": "ModelView",
    r"Convictions": "FailureDetector",
    r"[Oo]ptimis(?!tic|m)\w*": "optimize, optimization",
}
MINIFIED = re.compile(r"\.min\.(js|css)$")
OLD = re.compile(r"(?<!\w)(?:" + "|".join(REPLACED) + r")(?!\w)")


def uses(text: str) -> list[tuple[int, str, str]]:
    """Return (line, old word, word in use) for each old word in `text`."""
    return [
        (number, match[0], next(new for old, new in REPLACED.items() if re.fullmatch(old, match[0])))
        for number, line in enumerate(text.splitlines(), 1)
        for match in OLD.finditer(line)
    ]


def test_no_file_uses_the_old_vocabulary() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found: list[str] = []
    for name in filter(None, tracked.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if name in EXEMPT or MINIFIED.search(name) or b"\0" in content:
            continue
        text = content.decode(errors="replace")
        found += [f"{name}:{line}: {old} → {new}" for line, old, new in uses(text)]
    assert not found, "\n".join(["old words, and what to use instead:", *found])


@pytest.mark.parametrize("text", ["class Asking:", "the ledger's call", "#wide", "w-1 was convicted", "self.too_late"])
def test_old_words_are_found(text: str) -> None:
    assert [number for number, _, _ in uses(f"first\n{text}")] == [2]


@pytest.mark.parametrize("text", ["prompt", "optimistic", "ask", "an airplane", "optimize", "rideshare"])
def test_other_words_are_accepted(text: str) -> None:
    assert uses(text) == []
