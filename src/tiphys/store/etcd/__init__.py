"""The store in an etcd cluster (3.4 to 3.6): several API servers share it, and a member may die."""

from tiphys.store.etcd.endpoints import TLSFiles
from tiphys.store.etcd.store import EtcdStore

__all__ = ["EtcdStore", "TLSFiles"]
