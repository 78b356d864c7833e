"""The pod network a runtime is given: our plugin, unless a configuration directory names others.

Our plugin runs in one thread of its own (which starts in the network namespace of its first
caller, the node's) and waits for the network agent's `subnet.json`; the status tells so. With a
conflist in `conf_dir` the plugins it names are run instead. A pod connected either way waits
until its NetworkPolicies are in force (`policy.gate`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from tiphys.base import netlink
from tiphys.base.log import get_logger
from tiphys.base.netlink import Netlink
from tiphys.machinery.meta import ObjectName
from tiphys.network.cni import config
from tiphys.network.cni.bridge import BridgePlugin, host_interface
from tiphys.network.cni.hostport import HostPorts
from tiphys.network.cni.model import NetworkError, Pod, PodInterface, Readiness
from tiphys.network.cni.runner import Runner
from tiphys.network.policy import gate
from tiphys.network.subnet import Subnet

log = get_logger(__name__)

T = TypeVar("T")

# Interfaces about to be removed; any number nobody else uses for `ip link … group`.
_LEAVING_GROUP: Final = 0x747068
NOT_READY: Final = "NetworkPluginNotReady"
NOT_INITIALIZED: Final = "Network plugin returns error: cni plugin not initialized"


class PodNetworks:
    """Connects the pods of one node.

    `subnet_file`: written by the network agent; `state`: a directory that survives restarts;
    `conf_dir` and `bin_dirs`: CNI configuration and plugins of others, if any.
    """

    def __init__(
        self, *, subnet_file: Path, state: Path, conf_dir: Path | None = None, bin_dirs: Sequence[Path] = ()
    ) -> None:
        self._subnet_file = subnet_file
        self._state = state
        self._conf_dir = conf_dir
        self._bin_dirs = bin_dirs
        self._executor: ThreadPoolExecutor | None = None
        self._remover: ThreadPoolExecutor | None = None
        self._plugin: BridgePlugin | None = None
        self._ports: HostPorts | None = None
        self._leaving: set[str] = set()
        self._one_batch = asyncio.Lock()

    async def add(self, pod: Pod) -> PodInterface:
        """Connect a pod. Raises NetworkError; a failure leaves nothing behind."""
        runner = self._runner()
        if runner is not None:
            await self._in_thread(lambda: _loopback_up(pod.netns_path))
            result = await runner.add(pod)
        else:
            result = await self._in_thread(lambda: self._add(pod))
        try:
            # Nothing runs in the pod before this returns: its first packet finds its policies in force.
            owner = ObjectName(pod.namespace, pod.name)
            await gate.wait_admitted(self._subnet_file.with_name(gate.SOCKET_NAME), pod.sandbox_id, owner, result.ips)
        except BaseException as error:
            with suppress(NetworkError):
                await self.delete(pod)
            if isinstance(error, gate.NotAdmittedError):
                raise NetworkError(str(error)) from None
            raise
        return result

    async def delete(self, pod: Pod) -> None:
        """Disconnect a pod and free what it had. Can be repeated; its namespace may be gone."""
        runner = self._runner()
        if runner is not None:
            await runner.delete(pod)
        else:
            await self._delete_together(pod.sandbox_id)

    async def check(self, pod: Pod) -> None:
        """Raise NetworkError when the pod's network is not as `add` left it."""
        runner = self._runner()
        if runner is not None:
            await runner.check(pod)
        else:
            await self._in_thread(lambda: self._connected().check(pod))

    def status(self) -> Readiness:
        """Whether `add` can work. Looks at files only."""
        try:
            if self._conf_dir is not None and (path := config.find(self._conf_dir)) is not None:
                config.load(path)
                return Readiness()
            if Subnet.read(self._subnet_file) is None:
                return Readiness(False, NOT_READY, NOT_INITIALIZED)
        except (NetworkError, ValueError) as error:
            return Readiness(False, NOT_READY, f"Network plugin returns error: {error}")
        return Readiness()

    async def gc(self, valid_ids: Collection[str]) -> list[str]:
        """Remove what is left of every sandbox not in `valid_ids` (after a crash); returns what was removed."""
        runner = self._runner()
        if runner is not None:
            return await runner.gc(valid_ids)
        if Subnet.read(self._subnet_file) is None:
            return []
        return await self._in_thread(lambda: self._gc(valid_ids))

    async def update_config(self, pod_cidr: str) -> None:
        """The kubelet has learnt the node's pod CIDR; ours comes from the network agent's file."""

    def close(self) -> None:
        """Release sockets and the thread; pods stay connected."""
        if self._executor is not None:
            self._executor.submit(self._close).result()
            self._executor.shutdown()
            self._executor = None
        if self._remover is not None:
            self._remover.shutdown()
            self._remover = None

    # --- in the thread ---------------------------------------------------------------------

    def _add(self, pod: Pod) -> PodInterface:
        plugin = self._connected()
        result = plugin.add(pod)
        if pod.port_mappings:
            try:
                self._sync_ports(plugin)
            except Exception as error:
                plugin.delete(pod.sandbox_id)
                raise NetworkError(f"cannot set up hostPort: {error}") from error
        return result

    async def _delete_together(self, sandbox: str) -> None:
        """Delete with whoever else is leaving now: the kernel takes 20 ms for one interface or for hundreds."""
        self._leaving.add(sandbox)
        async with self._one_batch:
            if sandbox not in self._leaving:
                return  # went with an earlier batch
            batch = list(self._leaving)
            loop = asyncio.get_running_loop()
            if self._remover is None:
                self._remover = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cni-delete")
            # Addresses are free only when no interface answers for them any more.
            await loop.run_in_executor(self._remover, _remove_links, [host_interface(each) for each in batch])
            await self._in_thread(lambda: self._release(batch))
            self._leaving.difference_update(batch)

    def _release(self, sandboxes: Sequence[str]) -> None:
        if Subnet.read(self._subnet_file) is None and self._plugin is None:
            return  # Without a subnet nothing of an address is known; gc frees it when there is one again.
        plugin = self._connected()
        freed = [each for sandbox in sandboxes for each in plugin.release(sandbox)]
        if any(each.ports for each in freed):
            self._sync_ports(plugin)

    def _gc(self, valid: Collection[str]) -> list[str]:
        plugin = self._connected()
        removed = plugin.gc(valid)
        if removed:
            log.info("removed what was left of pods that are gone: %s", ", ".join(removed))
        self._sync_ports(plugin)
        return removed

    def _sync_ports(self, plugin: BridgePlugin) -> None:
        if self._ports is None:
            self._ports = HostPorts()
        self._ports.sync(each for pool in plugin.pools for each in pool.all())

    def _connected(self) -> BridgePlugin:
        subnet = Subnet.read(self._subnet_file)
        if subnet is None:
            raise NetworkError("cni plugin not initialized: the node has no pod CIDR yet")
        if self._plugin is None or self._plugin.subnet != subnet:
            if self._plugin is not None:
                self._plugin.close()
                self._plugin = None
            try:
                self._plugin = BridgePlugin(subnet, self._state)
            except OSError as error:
                raise NetworkError(f"the node's bridge cannot be set up: {error.strerror}") from error
        return self._plugin

    def _close(self) -> None:
        if self._plugin is not None:
            self._plugin.close()
            self._plugin = None
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cni")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _runner(self) -> Runner | None:
        """The runner for the configuration directory's network; None when our own plugin is meant."""
        path = None if self._conf_dir is None else config.find(self._conf_dir)
        if path is None:
            return None
        network = config.load(path)
        return Runner(network, self._bin_dirs, self._state / "results" / network.name)


def _remove_links(names: Sequence[str]) -> None:
    with Netlink() as here:
        here.send([netlink.set_group(name, _LEAVING_GROUP) for name in names])
        here.send([netlink.del_group(_LEAVING_GROUP)])


def _loopback_up(netns_path: str) -> None:
    with Netlink(netns_path) as inside:
        inside.send([netlink.set_link(1, up=True)])
