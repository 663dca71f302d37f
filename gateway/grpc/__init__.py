"""The Open Inference Protocol over gRPC (`smartbatch gateway --grpc`). gateway/oip/ has the code shared with REST."""
