"""NetworkPolicy on one node: NetworkPolicies, Pods and Namespaces in, the `tiphys-policy` table out.

Informers' handlers tell `state`; each turn writes the difference, in one transaction. At start,
and when the table is not as it was left, it is replaced whole, also in one transaction: there is
never a moment without policies, and connections already established go on. New pods of the node
are admitted through `gate` before anything in them runs. Runs in the node's network namespace;
when it dies, the rules stay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Namespace, Pod
from tiphys.api.networking.v1 import NetworkPolicy
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.base.nft import AsyncNft, NftError
from tiphys.base.tasks import Supervised
from tiphys.client import Informers
from tiphys.machinery.meta import ObjectName
from tiphys.network.policy import gate
from tiphys.network.policy.compile import compile_policy, pod_facts
from tiphys.network.policy.layout import NAME
from tiphys.network.policy.listing import expected_summary, summary_of
from tiphys.network.policy.model import PodFacts
from tiphys.network.policy.state import PolicyState
from tiphys.network.sysctl import SysctlError, filter_bridged

log = get_logger(__name__)

RETRY: Final = 1.0  # seconds after a refused transaction
GATHER: Final = 0.01  # seconds: changes arriving within it go together
VERIFY: Final = 30.0  # seconds between looks for others' changes
# A pod the API does not have is static and its mirror not made yet; then only selectors that need no label hold.
UNKNOWN_POD: Final = 5.0

SYNC_DURATION: Final = REGISTRY.histogram(
    "tiphys_network_policy_sync_duration_seconds",
    "Time of one transaction of network policies in seconds",
    buckets=tuple(0.001 * 2**power for power in range(12)),
)


class PolicyAgent:
    """See the module. `ready` is set when the first rules are in force.

    `addresses`: the directory of address management; `socket`: where new pods wait (see `gate`).
    """

    def __init__(
        self,
        informers: Informers,
        node_name: str,
        *,
        socket: Path,
        addresses: Path | None = None,
        versions: Sequence[int] = (4,),
        clock: Clock | None = None,
    ) -> None:
        self._node = node_name
        self._socket = socket
        self._addresses = addresses
        self._clock = clock or SystemClock()
        self._pods = informers.of(Pod)
        self._namespaces = informers.of(Namespace)
        self._policies = informers.of(NetworkPolicy)
        self._versions = tuple(versions)
        self._state = PolicyState(versions)
        # Addresses of this node's pods as the gate and the files tell: before and better than their status.
        self._admitted: dict[ObjectName, tuple[str, ...]] = {}
        # Whose an address is now: the status of a pod that is going may still name it.
        self._owners: dict[str, ObjectName] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()
        self._one = asyncio.Lock()
        self._generation = -1
        self._is_broken = False  # the last transaction was refused: what is in the table is not known
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Keep the rules until cancelled; they stay in force afterwards. `informers.run()` is the caller's business."""
        server = await gate.serve(self._socket, self._admit)
        self.listening.set()
        nft = AsyncNft()
        try:
            await self._start(nft)
            async with Supervised(self._clock) as tasks:
                tasks.spawn(lambda: self._watch_rules(nft), name="policy rules")
                await self._follow(nft)
        finally:
            server.close()
            nft.close()

    # --- following -------------------------------------------------------------------------

    async def _start(self, nft: AsyncNft) -> None:
        if self._addresses is not None:
            for name, ips in gate.allocated(self._addresses).items():
                self._give(name, ips)
        self._namespaces.add_handler(self._see_namespace, lambda _, new: self._see_namespace(new), self._lose_namespace)
        self._pods.add_handler(self._see_pod, lambda _, new: self._see_pod(new), self._lose_pod)
        self._policies.add_handler(self._see_policy, lambda _, new: self._see_policy(new), self._lose_policy)
        for informer in (self._namespaces, self._pods, self._policies):
            await informer.synced()
        while not self.ready.is_set():
            try:
                filter_bridged(ipv6=6 in self._versions)
                await self._write(nft, whole=True)
                self.ready.set()
            except (NftError, SysctlError) as error:
                log.error("network policies cannot be set up: %s", error)
                await self._clock.sleep(RETRY)

    async def _follow(self, nft: AsyncNft) -> None:
        while True:
            await self._changed.wait()
            # A pod that waits to start is not made to wait for company.
            if not self._waiting:
                await self._clock.sleep(GATHER)
            self._changed.clear()
            waiting, self._waiting = self._waiting, []
            try:
                async with self._one:
                    await self._write(nft)
            except NftError as error:
                log.error("network policies could not be written: %s", error)
                self._waiting += waiting
                self._changed.set()
                await self._clock.sleep(RETRY)
                continue
            for each in waiting:
                if not each.done():
                    each.set_result(None)

    async def _write(self, nft: AsyncNft, whole: bool = False) -> None:
        """Bring the kernel to what is wanted. Raises NftError when even a new table is refused."""
        script = self._state.whole() if whole or self._is_broken else self._state.script()
        if not script:
            return
        started = time.perf_counter()
        try:
            if not whole and not self._is_broken:
                try:
                    await nft.run(script)
                except NftError as error:
                    log.warning("an update was refused, making the policies anew: %s", str(error).splitlines()[0])
                    self._is_broken = True
                    script = self._state.whole()
            if whole or self._is_broken:
                self._is_broken = True
                await nft.run(script)
                self._is_broken = False
        finally:
            SYNC_DURATION.labels().observe(time.perf_counter() - started)
        # Counted and not asked for: what somebody else writes, before or meanwhile, `verify` has to see.
        self._generation += 1

    async def _watch_rules(self, nft: AsyncNft) -> None:
        """Repair what somebody else changed."""
        while True:
            await self._clock.sleep(VERIFY)
            try:
                if filter_bridged(ipv6=6 in self._versions):
                    log.warning("frames between pods of the node did not pass netfilter; they do again")
                async with self._one:
                    if await nft.generation() != self._generation:
                        await self.verify(nft)
            except (NftError, SysctlError) as error:
                log.error("network policies could not be verified: %s", error)

    async def verify(self, nft: AsyncNft) -> bool:
        """Compare the table with what was written, and replace it when it differs; True if it was replaced."""
        self._generation = await nft.generation()
        found = await nft.list(f"table {NAME}")
        # Only this task and the follower write, one at a time: nothing was written meanwhile.
        same = summary_of(found) == expected_summary(self._state.written(), self._state.versions)
        if not same:
            log.warning("table %s was changed by somebody else; making it again", NAME)
            await self._write(nft, whole=True)
        return not same

    # --- what handlers see -------------------------------------------------------------------

    def _see_namespace(self, namespace: Namespace) -> None:
        self._state.put_namespace(namespace.metadata.name, namespace.metadata.labels)
        self._changed.set()

    def _lose_namespace(self, namespace: Namespace) -> None:
        self._state.drop_namespace(namespace.metadata.name)

    def _see_pod(self, pod: Pod) -> None:
        name = ObjectName(pod.metadata.namespace, pod.metadata.name)
        facts = pod_facts(pod, self._node, self._admitted.get(name, ()))
        if facts is not None and any(self._owners.get(ip, name) != name for ip in facts.ips):
            facts = replace(facts, ips=tuple(ip for ip in facts.ips if self._owners.get(ip, name) == name))
        if self._state.drop_pod(name) if facts is None else self._state.put_pod(facts):
            self._changed.set()

    def _lose_pod(self, pod: Pod) -> None:
        name = ObjectName(pod.metadata.namespace, pod.metadata.name)
        for ip in self._admitted.pop(name, ()):
            if self._owners.get(ip) == name:
                del self._owners[ip]
        if self._state.drop_pod(name):
            self._changed.set()

    def _see_policy(self, policy: NetworkPolicy) -> None:
        try:
            self._state.put_policy(compile_policy(policy))
        except ValueError as error:
            log.error("NetworkPolicy %s/%s: %s", policy.metadata.namespace, policy.metadata.name, error)
        self._changed.set()

    def _lose_policy(self, policy: NetworkPolicy) -> None:
        self._state.drop_policy(ObjectName(policy.metadata.namespace, policy.metadata.name))
        self._changed.set()

    def _give(self, name: ObjectName, ips: tuple[str, ...]) -> None:
        """These addresses are this pod's, and no other's any more."""
        self._admitted[name] = ips
        for ip in ips:
            before, self._owners[ip] = self._owners.get(ip, name), name
            if before != name:
                self._admitted.pop(before, None)
        for other in [pod.name for pod in self._state.local_pods() if pod.name != name and set(pod.ips) & set(ips)]:
            known = self._pods.lister.get(other)
            if known is not None:
                self._see_pod(known)
            else:
                self._state.drop_pod(other)

    # --- new pods ------------------------------------------------------------------------------

    async def _admit(self, name: ObjectName, ips: tuple[str, ...]) -> None:
        """Return when the policies of a pod with these addresses are in force."""
        await self.ready.wait()
        self._give(name, ips)
        waited = 0.0
        while (pod := self._pods.lister.get(name)) is None and waited < UNKNOWN_POD:
            await self._clock.sleep(0.05)
            waited += 0.05
        if pod is not None:
            self._see_pod(pod)
        else:
            log.warning("pod %s is not in the API yet; its policies are those that need no label", name)
            self._state.put_pod(PodFacts(name=name, labels={}, ips=ips, is_local=True))
        in_force: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(in_force)
        self._changed.set()
        await in_force
