"""The Open Inference Protocol over gRPC: a gateway process of its own kind (`smartbatch gateway --grpc`).

What it shares with REST is in gateway/oip/; submitting, awaiting and accounting are gateway/inference/request.py's, as for all.
"""
