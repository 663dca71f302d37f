"""Which requests over HTTP run a model, and what each of them is."""

from __future__ import annotations

from gateway.gateway import Gateway
from gateway.oip.infer import PATH as INFER
from gateway.oip.infer import Inference
from gateway.prediction import PATH as PREDICT
from gateway.prediction import Prediction


def runs_a_model(path: str) -> bool:
    """Whether a POST to it does."""
    return path == PREDICT or INFER.fullmatch(path) is not None


def asking_of(gateway: Gateway, path: str) -> Prediction | Inference:
    """Make the asking of a request that runs a model."""
    return Prediction(gateway) if path == PREDICT else Inference(gateway, path)
