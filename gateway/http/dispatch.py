"""Which requests over HTTP run a model, and what each of them is."""

from __future__ import annotations

from smartbatch.gateway.inference.predict import PATH as PREDICT
from smartbatch.gateway.inference.predict import PredictRequest
from smartbatch.gateway.oip.infer import PATH as INFER
from smartbatch.gateway.oip.infer import OipInferRequest
from smartbatch.gateway.services import GatewayServices


def is_inference_path(path: str) -> bool:
    """Whether a POST to it does."""
    return path == PREDICT or INFER.fullmatch(path) is not None


def create_request(gateway: GatewayServices, path: str) -> PredictRequest | OipInferRequest:
    """Make the asking of a request that runs a model."""
    return PredictRequest(gateway) if path == PREDICT else OipInferRequest(gateway, path)
