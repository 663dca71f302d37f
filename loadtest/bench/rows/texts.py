"""T: texts of many lengths through the embedding example on one CPU thread.

Compared with bare loops of its forward and, where it is installed, with infinity-emb.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, median, median_of
from loadtest.generator.connection import Connection, request_bytes
from loadtest.generator.loops import ClosedLoop, LoadLoop, OpenLoop, poisson
from loadtest.generator.trace import LAST_RESPONSES_S, percentile
from loadtest.servers import infinity
from loadtest.system import ROOT, System, reference_server, smartbatch
from loadtest.workload.texts import docstrings

MODEL = "examples/text_embedding.py:TextEmbedding"
COUNT = 1000  # texts of a measurement
SHARES = {32: 0.9, 64: 1.0, 128: 1.0}  # of the sorted bare loop, by connections
MEASURED = 64  # connections whose throughput is the capacity of the round
ONE_CONNECTION = 1.15  # times a forward in the bare loop
SHORT = 32  # tokens
OPEN_SHARE = 0.8  # of the capacity
SHORT_P99 = 6  # times what the longest text takes alone
OVERLOAD = 2
OVERLOAD_SHARE = 0.95
TIMEOUT_S = 2.0  # of a request under overload
RAMP_S = 3.0  # the first seconds under overload are not counted
INFINITY = 2  # times its throughput
OPEN_PASSES = 2  # times that all texts are sent in an open loop
MAX_S = 180.0  # of a closed loop
WARM = 200  # texts


class Answer(NamedTuple):
    """Times in seconds on the loop's clock; `text` is its number."""

    text: int
    start: float
    end: float
    status: int

    @property
    def latency_ms(self) -> float:
        return (self.end - self.start) * 1000


class Answers(list[Answer]):
    """Recorder of a loop: the answers in the order in which they came."""

    def started(self, start: float, now: float) -> None:
        pass

    def ended(self, connection: Connection, start: float, now: float) -> float:
        self.append(Answer(connection.body, start, now, connection.status))
        return 0.0

    def failed(self, error: str) -> None:
        pass


def row(run: Run) -> Outcome:
    count = 64 if run.quick else COUNT
    run.log("T, the bare loop in arrival order")
    bare = _bare(count, "arrival")
    tokens: list[int] = bare["tokens"]
    rounds: list[dict[str, Any]] = []
    details: dict[str, Any] = {"arrival": bare["arrival"], "rounds": rounds}
    with smartbatch(MODEL, TORCH_THREADS=1, DEVICE="cpu", OPTIMIZE="none" if run.quick else "auto") as system:
        if not run.quick:
            run.log("T, until the network is compiled: minutes the first time")
            system.wait_until_compiled()
        requests = [_predict_request(system.port, text) for text in docstrings()[:count]]
        in_time = [_predict_request(system.port, text, TIMEOUT_S) for text in docstrings()[:count]]
        _closed_loop(system, requests, MEASURED, WARM)
        for number in range(run.rounds(3)):
            run.log(f"T, the bare loop, sorted and one by one, round {number + 1}")
            each = _bare(count, "sorted,single")
            rounds.append({name: each[name] for name in ("sorted", "single", "longest_ms")})
            for connections in (1, *SHARES):
                run.log(f"T, {connections} connections, round {number + 1}")
                rounds[-1][str(connections)] = _closed_loop(system, requests, connections, count)
            run.log(f"T, the bare loop, sorted, round {number + 1}")  # again, as the machine's speed changes meanwhile
            rounds[-1]["sorted_after"] = _bare(count, "sorted")["sorted"]
            capacity = rounds[-1][str(MEASURED)]["texts_per_s"]
            run.log(f"T, open loop at {OPEN_SHARE:.0%} of the capacity and {OVERLOAD} times, round {number + 1}")
            steady = _open_loop(system, requests, OPEN_SHARE * capacity, OPEN_PASSES * count / (OPEN_SHARE * capacity))
            rounds[-1]["steady"] = latencies(steady, tokens)
            seconds = run.seconds(OPEN_PASSES * count / (OVERLOAD * capacity))
            overload = _open_loop(system, in_time, OVERLOAD * capacity, RAMP_S + seconds)
            rounds[-1]["overload"] = overloaded(overload, tokens, seconds)
    if infinity.installed() and not run.quick:
        details["infinity"] = _infinity(run, count)
    return Outcome(_figures(details), details)


def _figures(details: dict[str, Any]) -> list[Figure]:
    rounds = details["rounds"]
    figures = [
        Figure("a bare loop, sorted beforehand", round(median([sorted_rate(each) for each in rounds]), 2), "texts/s"),
        Figure("a bare loop, one by one", median_of([each["single"] for each in rounds], "texts_per_s"), "texts/s"),
        Figure("a bare loop, in the order of arrival", details["arrival"]["texts_per_s"], "texts/s"),
    ]
    for connections, share in SHARES.items():
        measured = [each[str(connections)]["texts_per_s"] for each in rounds]
        rate = median(measured)
        of_sorted = [own / sorted_rate(each) for own, each in zip(measured, rounds, strict=True)]
        figures.append(Figure(f"{connections} connections, throughput", rate, "texts/s"))
        figures.append(Figure(f"{connections} connections, of sorted", percent(median(of_sorted)), "%", 100 * share))
        if theirs := details.get("infinity", {}).get(str(connections)):
            goal = INFINITY * theirs["texts_per_s"]
            figures.append(Figure(f"{connections} connections, and infinity-emb", rate, "texts/s", goal))
    one_by_one = median([each["1"]["p50_ms"] / each["single"]["p50_ms"] for each in rounds])
    short = median([each["steady"]["short_ms"]["p99"] / each["longest_ms"] for each in rounds])
    of_long = median([each["steady"]["short_ms"]["p99"] / each["steady"]["long_ms"]["p99"] for each in rounds])
    goodput = median([each["overload"]["in_time_per_s"] / each[str(MEASURED)]["texts_per_s"] for each in rounds])
    at = f"{OPEN_SHARE:.0%} of capacity, p99 of short texts"
    return [
        *figures,
        Figure("one connection, p50", median([each["1"]["p50_ms"] for each in rounds]), "ms"),
        Figure("one connection, p50 of one by one", percent(one_by_one), "%", 100 * ONE_CONNECTION, "at most"),
        Figure(at, median([each["steady"]["short_ms"]["p99"] for each in rounds]), "ms"),
        Figure(f"{at}, of the longest alone", percent(short), "%", 100 * SHORT_P99, "at most"),
        Figure(f"{at}, of long ones'", percent(of_long), "%", 100, "at most"),
        Figure(f"{OVERLOAD} × capacity, goodput of capacity", percent(goodput), "%", 100 * OVERLOAD_SHARE),
    ]


def sorted_rate(measured: dict[str, Any]) -> float:
    """Return the texts per second of a round's bare loops, before and after the server was measured."""
    return (measured["sorted"]["texts_per_s"] + measured["sorted_after"]["texts_per_s"]) / 2


def percent(share: float) -> float:
    return round(100 * share, 1)


def _bare(count: int, orders: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "loadtest.servers.bare_texts", str(count), orders]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    return json.loads(out)


def _infinity(run: Run, count: int) -> dict[str, Any]:
    measured = {}
    server = reference_server("infinity")
    server.ready_path = "/health"
    with server as system:
        requests = [_embeddings_request(system.port, text) for text in docstrings()[:count]]
        _closed_loop(system, requests, MEASURED, WARM)
        for connections in SHARES:
            run.log(f"T, infinity-emb, {connections} connections")
            measured[str(connections)] = _closed_loop(system, requests, connections, count)
    return measured


def _predict_request(port: int, text: str, timeout_s: float | None = None) -> bytes:
    headers = {"content_type": "application/json", "accept": "application/msgpack"}
    if timeout_s:
        headers["x_request_timeout"] = f"{timeout_s:g}"
    return request_bytes(port, json.dumps({"data": [text]}).encode(), **headers)


def _embeddings_request(port: int, text: str) -> bytes:
    body = {"model": "default/not-specified", "input": [text], "encoding_format": "base64"}
    return request_bytes(port, json.dumps(body).encode(), "/embeddings", content_type="application/json")


def _closed_loop(system: System, requests: list[bytes], connections: int, count: int) -> dict[str, Any]:
    """Measure `count` answers, after twice as many as there are connections: by then as many long texts wait as later.

    The texts are sent in turn, so the answers are to nearly the same texts each time.
    """
    answers = Answers()
    loop = ClosedLoop(system.port, requests, answers, connections, seed=None)
    first = 2 * connections
    _run(loop, answers, first + count)
    counted = answers[first : first + count]
    in_ms = sorted(answer.latency_ms for answer in counted if answer.status == 200)
    seconds = counted[-1].end - answers[first - 1].end
    return {
        "texts_per_s": round(len(in_ms) / seconds, 2),
        "errors": len(counted) - len(in_ms),
        "p50_ms": round(percentile(in_ms, 0.5), 2),
        "p99_ms": round(percentile(in_ms, 0.99), 2),
    }


def _run(loop: LoadLoop, answers: Answers, count: int) -> None:
    try:
        while len(answers) < count and loop.now() < MAX_S:
            loop.run(loop.now() + 0.1)
    finally:
        loop.close()
    if len(answers) < count:
        raise RuntimeError(f"{len(answers)} of {count} answers came within {MAX_S:g} s")


def _open_loop(system: System, requests: list[bytes], rate: float, seconds: float) -> Answers:
    answers = Answers()
    loop = OpenLoop(system.port, requests, answers, poisson(rate, seconds), seed=None)
    try:
        loop.run(seconds + LAST_RESPONSES_S)
    finally:
        loop.close()
    return answers


def latencies(answers: Answers, tokens: list[int]) -> dict[str, Any]:
    """Return the latencies of short and long texts; requests without an answer in time count as infinite."""
    by_length: dict[str, list[float]] = {"short_ms": [], "long_ms": []}
    for answer in answers:
        latency_ms = answer.latency_ms if answer.status == 200 else float("inf")
        by_length["short_ms" if tokens[answer.text] <= SHORT else "long_ms"].append(latency_ms)
    return {
        name: {f"p{share}": round(percentile(sorted(found), share / 100), 1) for share in (50, 90, 99)}
        for name, found in by_length.items()
    }


def overloaded(answers: Answers, tokens: list[int], seconds: float) -> dict[str, Any]:
    counted = [answer for answer in answers if answer.start >= RAMP_S]
    good = [answer for answer in counted if answer.status == 200 and answer.latency_ms <= TIMEOUT_S * 1000]
    statuses = sorted({answer.status for answer in counted})
    return {
        "offered_per_s": round(len(counted) / seconds, 2),
        "in_time_per_s": round(len(good) / seconds, 2),
        "tokens_per_s": round(sum(tokens[answer.text] for answer in good) / seconds, 1),
        "statuses": {str(status): sum(answer.status == status for answer in counted) for status in statuses},
    }
