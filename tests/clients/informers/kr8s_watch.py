"""kr8s' watch begins anew when it ends, with every object there is: what is known already is no event, and what went
meanwhile is found by a list, before the watch and once more at its first event, as it began after that list."""

import json
import sys
import time

import httpx
import kr8s

known: dict[str, str] = {}
gone: set[str] = set()  # no name comes twice: what a watch has still to tell of these is old


def tell_what_went() -> None:
    there = {found.name for found in kr8s.get("configmaps", namespace=sys.argv[1])}
    for name in known.keys() - there:
        print(json.dumps(["DELETED", name, ""]), flush=True)
        del known[name]
        gone.add(name)


while True:
    try:
        tell_what_went()
        first = True
        for kind, found in kr8s.watch("configmaps", namespace=sys.argv[1]):
            if first:
                tell_what_went()
                first = False
            metadata = found.raw["metadata"]
            name, revision = metadata["name"], metadata["resourceVersion"]
            if known.get(name) == revision or name in gone:
                continue
            print(json.dumps([kind, name, revision]), flush=True)
            known.pop(name, None) if kind == "DELETED" else known.update({name: revision})
    except (httpx.HTTPError, kr8s.APITimeoutError, kr8s.ConnectionClosedError, kr8s.ServerError):
        pass
    time.sleep(0.1)
