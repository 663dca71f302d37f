"""U: ResNet18 as a user's class, compared with the same network as MODEL_PATH=resnet18."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, closed_loop, median, median_of
from loadtest.system import ROOT, System, smartbatch

MODEL = f"{ROOT / 'loadtest' / 'bench' / 'own_resnet18.py'}:OwnResNet18"
CONNECTIONS = 16
SHARE = 0.98
ROUNDS = 12  # of which each may be a tenth off


def row(run: Run) -> Outcome:
    """Alternate between the two; both get the same tensors as npy."""
    settings: dict[str, Any] = {"DEVICE": "cpu", "TORCH_THREADS": 1, "OPTIMIZE": "none" if run.quick else "auto"}
    with smartbatch("resnet18", MODEL_WEIGHTS="random", **settings) as built_in, smartbatch(MODEL, **settings) as own:
        if not run.quick:
            run.log("U, until both networks are compiled, which takes minutes the first time")
            built_in.wait_until_compiled()
            own.wait_until_compiled()
        systems = {"built in": built_in, "own": own}
        load = {
            name: closed_loop(system, tensor(), CONNECTIONS, content_type="application/x-npy")
            for name, system in systems.items()
        }
        rounds = run.interleave(f"U, {CONNECTIONS} connections", load, rounds=ROUNDS, seconds=8.0, warm_s=2.0)
        variants = {name: _variant(system) for name, system in systems.items()}
    rates = {name: [each["requests_per_s"] for each in results] for name, results in rounds.items()}
    shares = [own_rate / rate for own_rate, rate in zip(rates["own"], rates["built in"], strict=True)]
    figures = [
        Figure("of the built-in one", round(median(shares), 3), "", SHARE),
        Figure("throughput", median_of(rounds["own"], "requests_per_s"), "req/s"),
    ]
    return Outcome(figures, {"variants": variants, "rounds": rounds, "shares": shares})


def tensor() -> bytes:
    out = BytesIO()
    np.save(out, np.random.default_rng(1).random((1, 3, 224, 224), np.float32))
    return out.getvalue()


def _variant(system: System) -> Any:
    (model,) = json.loads(system.get("/stats"))["models"].values()
    return [worker.get("variant") for worker in model["workers"].values()]
