"""Pod resources API v1 of the kubelet: messages (`api_pb2`) and service (`api_pb2_grpc`)."""
