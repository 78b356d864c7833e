"""The official client's own informer (kubernetes 36 and later)."""

import json
import sys
import threading

from kubernetes import client, config
from kubernetes.informer import ADDED, DELETED, MODIFIED, SharedInformer

config.load_kube_config()
informer = SharedInformer(client.CoreV1Api().list_namespaced_config_map, namespace=sys.argv[1])


def say(kind: str):
    def handler(found) -> None:
        metadata = found.metadata
        print(json.dumps([kind, metadata.name, metadata.resource_version]), flush=True)

    return handler


for kind in (ADDED, MODIFIED, DELETED):
    informer.add_event_handler(kind, say(kind))
informer.start()
threading.Event().wait()
