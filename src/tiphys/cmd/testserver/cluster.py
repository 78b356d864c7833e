"""ClusterServer: the API server of a test's cluster, and its way back to the first moment.

`start` remembers everything the store holds of a new cluster (the base). `reset` writes the difference back in one
transaction, past finalizers and admission, so that watchers see the deletions they would see of any other client.
Controllers keep running; what one of them was about to write then (a pod for a ReplicaSet that is gone) is found when
the store has been quiet for a moment, and taken back too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import string
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.bootstrap import objects
from tiphys.apiserver.bootstrap.reconcile import ClusterFacts, authentication_data, reconcile
from tiphys.apiserver.bootstrap.writer import Object, Writer
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.security import secured_server
from tiphys.base.log import get_logger
from tiphys.cmd.testserver.identity import Identity
from tiphys.store import END_OF_KEYS, Delete, Event, Put

log = get_logger(__name__)

# Nothing is at this address (RFC 5737); endpoints may not be on the loopback, where the server is.
ADVERTISED: Final = "192.0.2.1"
# After so many turns without a write the controllers are taken to be done; a turn takes so many seconds, or longer.
QUIET_TURNS: Final = 10
TURN: Final = 0.0005
LONGEST_WAIT: Final = 0.5  # seconds
ROUNDS: Final = 5
# Gathered from others by a controller, which mends it whenever it differs: no part of the base once it is there.
AGGREGATED: Final = b'"aggregationRule":'
MANAGER: Final = "kube-controller-manager"
CA_DESCRIPTION: Final = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class ClusterServer:
    """Made, started, used, stopped, by one event loop."""

    def __init__(self, identity: Identity, datastore: str, runtime_config: Mapping[str, bool]) -> None:
        """`datastore` as `tiphys.store.open_store` takes it. Raises ValueError for options that cannot be."""
        self._identity = identity
        directory = identity.directory
        self._options = ServerOptions(
            store=datastore,
            port=0,
            advertise_address=ADVERTISED,
            tls_certificate=directory / "server.crt",
            tls_key=directory / "server.key",
            client_ca=directory / "ca.crt",
            service_account_key=directory / "sa.key",
            requestheader_ca=directory / "front-proxy-ca.crt",
            proxy_client_certificate=directory / "front-proxy-client.crt",
            proxy_client_key=directory / "front-proxy-client.key",
            runtime_config=dict(runtime_config),
        )
        self._server = secured_server(self._options)
        self._writer = Writer(self._server.resources, self._server.reader, self._server.clock.now)
        self._base: dict[str, bytes] = {}
        self._writes = 0
        self.url = ""

    async def start(self) -> dict[str, Any]:
        """Serve; returns what a client needs to know. Raises OSError, StoreError."""
        await self._server.load()
        # Listening first tells the port, which some of the first objects name; nobody else knows it yet.
        await self._server.listen()
        host, port = self._server.addresses[0]
        self.url = f"https://{host}:{port}"
        await reconcile(self._writer, self._facts(port), self._server.clock.now)
        # What the controllers would do first, done before anybody looks: pods can be made at once.
        for namespace in objects.NAMESPACES:
            await self._furnish(namespace)
        await self._writer.update("networking.k8s.io", "v1", "servicecidrs", "", "kubernetes", _guard, MANAGER)
        self._base = await self._state()
        self._server.store.subscribe(self._written)
        directory = self._identity.directory
        return {
            "server": self.url,
            "kubeconfig": str(self._identity.write_kubeconfig(self.url)),
            "ca": str(directory / "ca.crt"),
            "cert": str(directory / "client.crt"),
            "key": str(directory / "client.key"),
        }

    async def stop(self) -> None:
        """Close the store in order; connections are not waited for."""
        await self._server.stop()

    async def new_namespace(self, prefix: str) -> str:
        """Make a namespace that is ready for pods; its name is `prefix` and five random characters."""
        name = f"{prefix}-{''.join(random.choices(string.ascii_lowercase + string.digits, k=5))}"
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self._writer.create("", "v1", "namespaces", namespace, "tiphys.testing")
        await self._furnish(name)
        return name

    async def reset(self) -> None:
        """Put everything back as it was when the cluster was new."""
        for _ in range(ROUNDS):
            changes = difference(self._base, await self._state())
            if not changes:
                return
            await self._server.store.txn((), changes)
            await self._quiet()
        log.warning("something keeps writing: after a reset there is more than a new cluster has")

    def _facts(self, port: int) -> ClusterFacts:
        cidr = self._options.service_cidr
        return ClusterFacts(
            service_cidr=cidr,
            service_address=str(ipaddress.ip_network(cidr)[1]),
            advertise_address=ADVERTISED,
            port=port,
            authentication=authentication_data(self._options),
        )

    async def _furnish(self, namespace: str) -> None:
        """The service account and the certificate every namespace has."""
        for version_kind, plural, obj in furniture(namespace, self._identity.ca.decode()):
            await self._writer.create("", "v1", plural, {**version_kind, **obj}, MANAGER)

    async def _state(self) -> dict[str, bytes]:
        found = await self._server.store.range("", END_OF_KEYS)
        return {item.key: item.value for item in found.items}

    def _written(self, _events: Sequence[Event]) -> None:
        self._writes += 1

    async def _quiet(self) -> None:
        """Wait until nobody has written for a moment: so many turns of the event loop in a row.

        Turns, as a machine with much else to do lets time pass without any in which a controller could have written.
        """
        begun = time.monotonic()
        turns = 0
        while turns < QUIET_TURNS and time.monotonic() - begun < LONGEST_WAIT:
            seen = self._writes
            await asyncio.sleep(TURN)
            turns = turns + 1 if seen == self._writes else 0


def _guard(cidr: Object) -> None:
    """What its controller makes of a service range: one that a reset took away would be put there again, and again."""
    cidr["metadata"]["finalizers"] = ["networking.k8s.io/service-cidr-finalizer"]


def difference(base: Mapping[str, bytes], state: Mapping[str, bytes]) -> list[Put | Delete]:
    """What has to be written to turn `state` into `base`."""
    changes: list[Put | Delete] = [Delete(key) for key in state if key not in base]
    for key, value in base.items():
        current = state.get(key)
        if current != value and not (current is not None and AGGREGATED in value):
            changes.append(Put(key, value))
    return changes


def furniture(namespace: str, ca: str) -> list[tuple[Object, str, Object]]:
    """Type, plural and content of the objects the controllers put into every namespace."""
    metadata = {"name": "kube-root-ca.crt", "namespace": namespace}
    described = {**metadata, "annotations": {"kubernetes.io/description": CA_DESCRIPTION}}
    account = {"metadata": {"name": "default", "namespace": namespace}}
    return [
        ({"apiVersion": "v1", "kind": "ServiceAccount"}, "serviceaccounts", account),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, "configmaps", {"metadata": described, "data": {"ca.crt": ca}}),
    ]
