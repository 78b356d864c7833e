"""Container Runtime Interface v1: messages (`api_pb2`) and services (`api_pb2_grpc`), generated from `api.proto`."""
