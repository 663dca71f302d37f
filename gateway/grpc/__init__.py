"""The Open Inference Protocol over gRPC (`smartbatch gateway --grpc`). What it shares with REST is in gateway/oip/."""
