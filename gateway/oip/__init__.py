"""The Open Inference Protocol, version 2 (KServe's and Triton's), with Triton's binary tensors, as REST.

https://github.com/kserve/open-inference-protocol. What REST and gRPC (gateway/grpc/) share is here too: inputs,
outputs and metadata.
"""

# Every model has this one version.
VERSION = "1"
