"""lightkube has no informer: its watch goes on from the last version seen, after a list where that is gone."""

import json
import sys
import time

from lightkube import Client
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import ConfigMap

client = Client(namespace=sys.argv[1])
known: dict[str, str] = {}
version = ""


def say(kind: str, name: str, revision: str) -> None:
    print(json.dumps([kind, name, revision]), flush=True)


def begin() -> str:
    """List, tell what is different; the version to watch from."""
    listed = client.list(ConfigMap)
    found = {one.metadata.name: one.metadata.resourceVersion for one in listed}
    for name in known.keys() - found.keys():
        say("DELETED", name, "")
    for name, revision in found.items():
        if known.get(name) != revision:
            say("MODIFIED" if name in known else "ADDED", name, revision)
    known.clear()
    known.update(found)
    return listed.resourceVersion


while True:
    try:
        version = version or begin()
        for kind, found in client.watch(ConfigMap, resource_version=version):
            metadata = found.metadata
            version = metadata.resourceVersion
            say(kind, metadata.name, version)
            known.pop(metadata.name, None) if kind == "DELETED" else known.update({metadata.name: version})
    except ApiError as error:
        if error.status.code == 410:
            version = ""
    except Exception as error:  # its transport's errors have different bases in different versions
        print(repr(error), file=sys.stderr)
    time.sleep(0.1)
