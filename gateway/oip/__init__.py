"""The Open Inference Protocol, version 2 (KServe's and Triton's), with Triton's binary tensors, as REST.

https://github.com/kserve/open-inference-protocol. What REST and gRPC (gateway/grpc/) have in common is here too: which
input is meant, what an answer holds, what models say of themselves.
"""

# A model here has one version, and it is called this.
VERSION = "1"
