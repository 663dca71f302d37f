"""SmartBatch: an inference server for PyTorch models.

The names exported here are the stable interface for serving your own model. The subpackages are internal.
"""

from smartbatch.model import Model, serve, to_torch
from smartbatch.shared import __version__
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import Payload, Tensor

__all__ = ["InputSpec", "InvalidInput", "Model", "OutputSpec", "Payload", "Tensor", "__version__", "serve", "to_torch"]
