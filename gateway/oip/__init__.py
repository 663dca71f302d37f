"""The REST endpoints of the Open Inference Protocol, version 2 (KServe's and Triton's), with Triton's binary tensors.

https://github.com/kserve/open-inference-protocol. gRPC (gateway/grpc/) uses the same inputs, outputs and metadata.
"""
