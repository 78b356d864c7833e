"""API of DRA drivers, v1: messages (`dra_pb2`) and services (`dra_pb2_grpc`)."""
