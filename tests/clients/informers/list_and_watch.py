"""What informers do, with the watch of kubernetes_asyncio: list, watch from there, and list again after a 410."""

import asyncio
import json
import sys

import aiohttp
from kubernetes_asyncio import client, config, watch


async def main(namespace: str) -> None:
    await config.load_kube_config()
    async with client.ApiClient() as api:
        core = client.CoreV1Api(api)
        known: dict[str, str] = {}
        version = ""

        def say(kind: str, name: str, revision: str) -> None:
            print(json.dumps([kind, name, revision]), flush=True)

        while True:
            try:
                if not version:
                    listed = await core.list_namespaced_config_map(namespace)
                    found = {one.metadata.name: one.metadata.resource_version for one in listed.items}
                    for name in known.keys() - found.keys():
                        say("DELETED", name, "")
                    for name, revision in found.items():
                        if known.get(name) != revision:
                            say("MODIFIED" if name in known else "ADDED", name, revision)
                    known, version = found, listed.metadata.resource_version
                async with watch.Watch().stream(
                    core.list_namespaced_config_map, namespace, resource_version=version, timeout_seconds=60
                ) as stream:
                    async for event in stream:
                        metadata = event["object"].metadata
                        version = metadata.resource_version
                        say(event["type"], metadata.name, version)
                        if event["type"] == "DELETED":
                            known.pop(metadata.name, None)
                        else:
                            known[metadata.name] = version
            except client.ApiException as error:
                if error.status == 410:
                    version = ""
                await asyncio.sleep(0.1)
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(0.1)


asyncio.run(main(sys.argv[1]))
