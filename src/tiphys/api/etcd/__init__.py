"""etcd's v3 API, as far as `tiphys.store.etcd` speaks it: messages (`rpc_pb2`), services (`rpc_pb2_grpc`)."""
