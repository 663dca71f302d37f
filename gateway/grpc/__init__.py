"""The Open Inference Protocol over gRPC: a gateway process of its own kind (`smartbatch gateway --grpc`).

What it shares with REST is in gateway/oip/; a request's life is that of gateway/inference/, as for all protocols.
"""
