"""Words of an earlier, private vocabulary stay out of the tree. docs/glossary.md defines the words in use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXEMPT = {"docs/glossary.md", "CHANGELOG.md", "LICENSE", "tests/test_vocabulary.py"}
# Old word in snake case → the word in use. Found as a part of an identifier, too: _rider, put_rider, PutRider, RIDERS.
PARTS = {
    "runs_a_model": "is_inference_path",
    "likeness": "request head",
    "doorman": "ConnectionRegistry",
    "riders?": "entry, ClaimedEntry",
    "ride": "BatchInfo",
    "runways?": "LaunchedBatches",
    "seats?": "RowRef",
    "convict(?:s|ed|ion|ions)?": "dead worker, detected",
    "patience": "ConnectionTimeouts",
    "envelopes?": "RequestParams",
    "garbled": "malformed",
    "beside_the_stream": "external payload",
    "keyrings?": "KeyStore",
    "ledgers?": "record of requests, UsageSync",
    "outbox": "response",
    "lanes?": "queue, ModelQueue, ModelMetrics",
    "meters": "GatewayMetrics, ModelMetrics, ProcessMetrics",
    "taken_back": "CancelledByOperator, cancelled",
    "too_late": "DeadlineUnattainable",
    "too_wide": "next_too_large",
    "claimers?": "Batcher",
    "intake": "EntryTracker",
    "finishers?": "ReplyPublisher",
    "reply_maker": "ReplyEncoder",
    "forward_times": "LatencyEstimator",
    "service_rate": "ThroughputEstimator",
    "row_log": "ModelErrorLog",
    "on_its_way": "AsyncHostCopy",
    "unfollowed": "run_inline",
    "line_limit": "LogRateLimiter",
    "model_moment": "ModelView",
    "tally": "BufferedHistogram",
    "verdicts?": "AdmitStatus",
    "ceiling": "MemoryBatchLimit",
    "bury": "dead_letter",
    "optimis(?:e|ed|es|er|ing|ation|ations)": "optimize, optimization",
}
# Plain English words are old only as whole class names, attributes or keys.
CLASSES = (
    "Anyone|Beat|Caller|Exchange|Fill|Filling|Flight|Given|Guard|Guess|Link|Moment|Observer|Prompt|Receiving|Recent|Report"
    "|Room|Said|Spent|Sweep|Wanted"
)
WHOLE = {
    rf"\b(?:class|import) (?:{CLASSES})\b": "a word of docs/glossary.md",
    r"\bBEAT\b": "HEARTBEAT",
    r"\bAskings?\b|_askings?\b|\basking_of\b": "InferenceRequest, create_request",
    r"\b[Kk](?:eys|EYS)\.(?:turn|bell|open)\b|\}:(?:turn|bell|open)\b": "fill_lock, wakeup, inflight",
    r"#wide\b": "#extra_rows",
    r"\bself\.alone\b": "sole_worker",
    r'"(?:quiet|solo)"': "idle, isolated",
    r"\b[Bb]eside the stream\b": "external payload",
    r"\b[Tt]aken back\b": "cancelled",
}
SETTING = re.compile("partition_patience", re.IGNORECASE)  # not the class that once had this name
MINIFIED = re.compile(r"\.min\.(js|css)$")


def part(word: str) -> str:
    """Return a pattern that finds a word in snake_case, UPPER_CASE and CamelCase, also as a part of an identifier."""
    upper = re.sub(r"[a-z]+", lambda letters: letters[0].upper(), word)
    camel = "".join(piece[0].upper() + piece[1:] for piece in word.split("_"))
    return rf"(?<![A-Za-z])(?:{word})(?![a-z])|(?<![A-Za-z])(?:{upper})(?![A-Za-z])|(?<![A-Z])(?:{camel})(?![a-z])"


PATTERNS = [(re.compile(part(word)), new) for word, new in PARTS.items()]
PATTERNS += [(re.compile(pattern), new) for pattern, new in WHOLE.items()]


def uses(text: str) -> list[tuple[int, str, str]]:
    """Return (line, old word, word in use) for each old word in `text`."""
    text = SETTING.sub("", text)
    return [
        (text.count("\n", 0, match.start()) + 1, match[0], new)
        for pattern, new in PATTERNS
        for match in pattern.finditer(text)
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


@pytest.mark.parametrize(
    "text",
    [
        *("class Asking:", "make_asking()", "the ledger's call", "w-1 was convicted", "Garbled", "optimised"),
        *("self._rider", "put_rider(1)", "riders_left", "RIDER", "MAX_RIDERS", "PutRider", "RiderQueue", "LaneMeters"),
        *("self.too_late", "AdmitStatus.TOO_LATE", "TooLate()", "_taken_back", "TakenBack", "taken back"),
        *("BEAT = 1", "class Beat:", "from x import Prompt", "KEYS.bell", "keys.open", "{M}:turn", "#wide"),
        *("self.alone = True", '"solo"', "beside the stream", "OnItsWay"),
    ],
)
def test_old_words_are_found(text: str) -> None:
    assert {number for number, _, _ in uses(f"first\n{text}")} == {2}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "prompt",
            "optimistic",
            "asking",
            "an airplane",
            "optimize",
            "rideshare",
            "override",
            "heartbeat",
            "HEARTBEAT",
        ),
        *(
            "open(path)",
            "the next turn",
            "it fails alone",
            "parameters",
            "seating",
            "it is too late",
            "given",
            "PROMPTLY",
        ),
    ],
)
def test_other_words_are_accepted(text: str) -> None:
    assert uses(text) == []
