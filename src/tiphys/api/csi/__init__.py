"""Container Storage Interface v1, what a node speaks: messages (`csi_pb2`) and services (`csi_pb2_grpc`)."""
