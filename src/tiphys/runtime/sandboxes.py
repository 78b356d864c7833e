"""Pod sandboxes: namespaces, addresses and files that the containers of a pod share.

The namespaces are pinned, not held by a process (see `namespaces`); only a pod that shares its process ids has a
pause process, because a PID namespace ends with its first process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tiphys.api.cri import api_pb2
from tiphys.base.log import get_logger
from tiphys.machinery.quantity import Quantity
from tiphys.runtime import filesystems, linux, namespaces, process
from tiphys.runtime.container import Container
from tiphys.runtime.containers import Containers
from tiphys.runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, RuntimeFault
from tiphys.runtime.filesystems import MappedUsers
from tiphys.runtime.images.assemble import ensure_pause
from tiphys.runtime.network import PodNetwork, PortMapping
from tiphys.runtime.node import Node, now
from tiphys.runtime.prepare import Joined
from tiphys.runtime.spec.mounts import SandboxFiles
from tiphys.runtime.state import Records, SandboxRecord, new_id
from tiphys.runtime.usernamespaces import UserMapping, UserNamespaceError, mapping_of

log = get_logger(__name__)

LAST_GROUP: Final = 2147483647
PAUSE_STOP_SECONDS = 0


class Sandbox:
    """One sandbox in memory."""

    def __init__(self, record: SandboxRecord) -> None:
        self.record = record
        self.config = api_pb2.PodSandboxConfig.FromString(record.config)
        self.lock = asyncio.Lock()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def modes(self) -> api_pb2.NamespaceOption:
        """Which namespaces the pod shares with the node."""
        return self.config.linux.security_context.namespace_options

    @property
    def users(self) -> UserMapping | None:
        """Who the pod's users are on the node, where it has a user namespace of its own."""
        return mapping_of(self.modes)

    @property
    def host_network(self) -> bool:
        return self.modes.network == api_pb2.NODE

    @property
    def hostname(self) -> str:
        """The pod's hostname; on the node's network the node's."""
        return socket.gethostname() if self.host_network else (self.config.hostname or self.id[:12])


class Sandboxes:
    """All sandboxes of the node."""

    def __init__(self, node: Node, containers: Containers, on_change: Callable[[Sandbox, str], None]) -> None:
        """`on_change` hears of "created", "started", "stopped" and "deleted"."""
        self._node = node
        self._containers = containers
        self._on_change = on_change
        self._records = Records(node.options.root / "sandboxes", SandboxRecord)
        self._all: dict[str, Sandbox] = {}

    def get(self, sandbox_id: str) -> Sandbox:
        """By id or an unambiguous beginning of it; NotFound."""
        found = self._all.get(sandbox_id)
        if found is None and sandbox_id:
            matches = [sandbox for key, sandbox in self._all.items() if key.startswith(sandbox_id)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFound(f'an error occurred when try to find sandbox: "{sandbox_id}": not found')
        return found

    def all(self) -> list[Sandbox]:
        """Every sandbox that has come to be."""
        return [sandbox for sandbox in self._all.values() if sandbox.record.state != "creating"]

    # ---- running

    async def run(self, config: api_pb2.PodSandboxConfig, handler: str) -> Sandbox:
        """Make a sandbox that is ready for containers. On failure nothing of it is left."""
        self._node.oci(handler)
        self._check(config)
        record = SandboxRecord(
            id=new_id(),
            config=config.SerializeToString(),
            created_at=now(),
            state="creating",
            runtime_handler=handler,
        )
        sandbox = Sandbox(record)
        self._all[record.id] = sandbox
        try:
            async with sandbox.lock:
                await self._set_up(sandbox)
        except BaseException:
            await asyncio.shield(self._undo(sandbox))
            raise
        self._on_change(sandbox, "created")
        self._on_change(sandbox, "started")
        return sandbox

    def _check(self, config: api_pb2.PodSandboxConfig) -> None:
        if not config.HasField("metadata"):
            raise InvalidArgument("sandbox config must include metadata")
        options = config.linux.security_context.namespace_options
        try:
            users = mapping_of(options)
        except UserNamespaceError as error:
            raise InvalidArgument(str(error)) from error
        if users is not None:
            if self._node.machine.no_user_namespaces:
                raise InvalidArgument(f"user namespaces are not supported: {self._node.machine.no_user_namespaces}")
            if api_pb2.NODE in (options.network, options.ipc, options.pid):
                raise InvalidArgument("a pod with a user namespace of its own cannot share the node's namespaces")
        name = _name(config)
        for other in self._all.values():
            if _name(other.config) == name:
                raise AlreadyExists(
                    f'failed to reserve sandbox name "{"_".join(map(str, name))}": name is reserved for "{other.id}"'
                )

    async def _set_up(self, sandbox: Sandbox) -> None:
        record = sandbox.record
        await self._node.uninterrupted(self._make, sandbox)
        found: dict[str, object] = {}
        if not sandbox.host_network:
            # On disk before the network is asked: a crash from here on must give the addresses back.
            try:
                result = await self._node.network.add(self.network_of(sandbox))
            except (Exception, TimeoutError) as error:
                raise RuntimeFault(f'failed to setup network for sandbox "{record.id}": {error}') from error
            found = {"ips": result.ips, "netns": str(self._pins(record.id) / "net")}
        if sandbox.modes.pid == api_pb2.POD:
            await self._start_pause(sandbox)
        self._update(sandbox, state="ready", **found)

    def _make(self, sandbox: Sandbox) -> None:
        config, options = sandbox.config, self._node.options
        self._records.save(sandbox.record)
        files = self.files(sandbox)
        files.hostname.write_text(sandbox.hostname + "\n")
        shutil.copyfile("/etc/hosts", files.hosts)
        if config.HasField("dns_config"):
            files.resolv_conf.write_text(resolv_conf(config.dns_config))
        else:
            shutil.copyfile("/etc/resolv.conf", files.resolv_conf)
        users = sandbox.users
        owner = users.root if users is not None else (0, 0)
        for path in (files.hostname, files.hosts, files.resolv_conf):
            path.chmod(0o644)
            os.chown(path, *owner)
        options.sandbox_run(sandbox.id).mkdir(parents=True, mode=0o711)
        kinds = [] if sandbox.host_network else ["net", "uts"]
        if sandbox.modes.ipc != api_pb2.NODE:
            kinds.append("ipc")
            filesystems.make_shm(files.shm, owner=owner)
        if kinds:
            sysctls = {} if sandbox.host_network else unprivileged(users)
            sysctls |= dict(config.linux.sysctls)
            try:
                namespaces.create(
                    self._pins(sandbox.id), kinds, hostname=sandbox.hostname, sysctls=sysctls, users=users
                )
            except UserNamespaceError as error:
                raise RuntimeFault(f"failed to create the user namespace of the sandbox: {error}") from error

    async def _start_pause(self, sandbox: Sandbox) -> None:
        await self._node.blocking(ensure_pause, self._node.images)
        config = api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="POD"),
            image=api_pb2.ImageSpec(image=self._node.options.pause_image),
        )
        config.linux.security_context.readonly_rootfs = True
        config.linux.security_context.no_new_privs = True
        config.linux.resources.cpu_shares = 2
        config.linux.resources.oom_score_adj = -998
        joined = Joined({**self._shared(sandbox), "pid": ""}, sandbox.hostname, self._users(sandbox))
        container = await self._containers.create(
            sandbox.record, config, sandbox.config, self.files(sandbox), joined, infra=True
        )
        self._update(sandbox, pause=container.id)
        await self._containers.start(container)

    # ---- what containers join

    def joined(self, sandbox: Sandbox, config: api_pb2.ContainerConfig) -> Joined:
        """The namespaces of a container with this configuration. Raises when the sandbox cannot take any."""
        if sandbox.record.state != "ready" or (sandbox.record.pause and not self._pause_lives(sandbox)):
            raise FailedPrecondition(f'sandbox container "{sandbox.id}" is not running')
        modes = config.linux.security_context.namespace_options
        try:
            if mapping_of(modes) != sandbox.users:
                raise InvalidArgument("the container's user namespace is another one than its sandbox's")
        except UserNamespaceError as error:
            raise InvalidArgument(str(error)) from error
        shared = self._shared(sandbox)
        if modes.pid == api_pb2.CONTAINER:
            shared["pid"] = ""
        elif modes.pid == api_pb2.POD:
            shared["pid"] = self._pid_namespace(sandbox.record.pause)
        elif modes.pid == api_pb2.TARGET:
            shared["pid"] = self._pid_namespace(modes.target_id)
        return Joined(shared, sandbox.hostname, self._users(sandbox))

    def _users(self, sandbox: Sandbox) -> MappedUsers | None:
        mapping = sandbox.users
        return MappedUsers(mapping, self._pins(sandbox.id) / "user") if mapping is not None else None

    def _shared(self, sandbox: Sandbox) -> dict[str, str]:
        pins = self._pins(sandbox.id)
        shared = {"mount": ""}
        if self._node.machine.unified_cgroups:
            shared["cgroup"] = ""
        for kind, pin in (("user", "user"), ("network", "net"), ("uts", "uts"), ("ipc", "ipc")):
            if (pins / pin).exists():
                shared[kind] = str(pins / pin)
        return shared

    def _pid_namespace(self, container_id: str) -> str:
        if not container_id:
            raise FailedPrecondition("the sandbox shares no process namespace")
        container = self._containers.get(container_id)
        if not container.running:
            raise FailedPrecondition(f'container "{container_id}" whose process namespace is to be shared does not run')
        return f"/proc/{container.record.pid}/ns/pid"

    def files(self, sandbox: Sandbox) -> SandboxFiles:
        """Files the containers of the sandbox share."""
        root = self._node.options.sandbox_root(sandbox.id)
        shm = self._node.options.sandbox_run(sandbox.id) / "shm"
        return SandboxFiles(
            hostname=root / "hostname",
            hosts=root / "hosts",
            resolv_conf=root / "resolv.conf",
            shm=Path("/dev/shm") if sandbox.modes.ipc == api_pb2.NODE else shm,
        )

    def network_of(self, sandbox: Sandbox) -> PodNetwork:
        """The sandbox as its network is told of it."""
        config = sandbox.config
        pin = self._pins(sandbox.id) / "net"
        return PodNetwork(
            sandbox_id=sandbox.id,
            netns_path=str(pin) if namespaces.is_pinned(pin) else "",
            name=config.metadata.name,
            namespace=config.metadata.namespace,
            uid=config.metadata.uid,
            port_mappings=tuple(
                PortMapping(
                    api_pb2.Protocol.Name(mapping.protocol).lower(),
                    mapping.container_port,
                    mapping.host_port,
                    mapping.host_ip,
                )
                for mapping in config.port_mappings
                if mapping.host_port > 0
            ),
            ingress_bandwidth=bits_per_second(config.annotations.get("kubernetes.io/ingress-bandwidth", "")),
            egress_bandwidth=bits_per_second(config.annotations.get("kubernetes.io/egress-bandwidth", "")),
            labels=dict(config.labels),
            annotations=dict(config.annotations),
        )

    # ---- stopping and removing

    async def stop(self, sandbox: Sandbox) -> None:
        """Kill the sandbox's containers and give its addresses and namespaces back. Idempotent."""
        async with sandbox.lock:
            await self._tear_down(sandbox)
            self._not_ready(sandbox)

    def _not_ready(self, sandbox: Sandbox) -> None:
        was = sandbox.record.state
        self._update(sandbox, state="notready")
        if was == "ready":
            self._on_change(sandbox, "stopped")

    def container_ended(self, container: Container) -> None:
        """With its pause process a sandbox loses its processes, and can take no others: it is not ready any more.

        The kernel ends the containers' processes before the pause process is gone. So the end of any of them is a
        reason to look: what has ended because the sandbox did must not be started again in it.
        """
        sandbox = self._all.get(container.record.sandbox_id)
        if sandbox is None or sandbox.record.state != "ready" or not sandbox.record.pause:
            return
        if not self._pause_lives(sandbox):
            log.info("the pause process of sandbox %s has ended", sandbox.id)
            self._not_ready(sandbox)

    def _pause_lives(self, sandbox: Sandbox) -> bool:
        found = [x for x in self._containers.of_sandbox(sandbox.id) if x.id == sandbox.record.pause]
        return any(x.running and not process.is_ending(x.record.pid) for x in found)

    async def _tear_down(self, sandbox: Sandbox) -> None:
        containers = self._containers.of_sandbox(sandbox.id, infra=False)
        await asyncio.gather(*(self._containers.stop(container, 0) for container in containers))
        for container in self._containers.of_sandbox(sandbox.id):
            if container.record.infra:
                await self._containers.stop(container, PAUSE_STOP_SECONDS)
        run = self._node.options.sandbox_run(sandbox.id)
        if not sandbox.host_network and run.exists():
            try:
                await self._node.network.delete(self.network_of(sandbox))
            except Exception as error:
                raise RuntimeFault(f'failed to destroy network for sandbox "{sandbox.id}": {error}') from error
        await self._node.blocking(self._unmake, sandbox.id)

    def _unmake(self, sandbox_id: str) -> None:
        """Undo `_make`'s work in the kernel. The run directory goes last: its absence means all is given back."""
        namespaces.remove(self._pins(sandbox_id))
        run = self._node.options.sandbox_run(sandbox_id)
        linux.unmount(run / "shm")
        shutil.rmtree(run, ignore_errors=True)

    async def _undo(self, sandbox: Sandbox) -> None:
        """After a failed `run`: as if it had not been called."""
        try:
            await self._tear_down(sandbox)
        except RuntimeFault as error:
            log.warning("%s", error)
            await self._node.blocking(self._unmake, sandbox.id)
        await self._forget(sandbox)

    async def remove(self, sandbox: Sandbox) -> None:
        """Take the sandbox and its containers away, stopping what runs. Idempotent."""
        await self.stop(sandbox)
        async with sandbox.lock:
            if self._all.get(sandbox.id) is not sandbox:
                return
            await self._forget(sandbox)
        self._on_change(sandbox, "deleted")

    async def _forget(self, sandbox: Sandbox) -> None:
        for container in self._containers.of_sandbox(sandbox.id):
            await self._containers.remove(container)
        if not sandbox.config.linux.cgroup_parent:
            parent = f"{self._node.options.default_cgroup_parent}/{sandbox.id}"
            await self._node.blocking(self._node.cgroups.remove, parent)
        await self._node.blocking(self._records.remove, sandbox.id)
        self._all.pop(sandbox.id, None)

    def _pins(self, sandbox_id: str) -> Path:
        return self._node.options.sandbox_run(sandbox_id) / "ns"

    def _update(self, sandbox: Sandbox, **changes: object) -> None:
        record = msgspec.structs.replace(sandbox.record, **changes)
        self._records.save(record)
        sandbox.record = record

    # ---- coming back

    async def load(self) -> dict[str, SandboxRecord]:
        """Read the records an earlier process of this runtime left; the containers are recovered after this."""
        records, broken = await self._node.blocking(self._records.load)
        known = {record.id for record in records}
        runs = self._node.options.run / "sandboxes"
        if runs.is_dir():
            broken += [path.name for path in runs.iterdir() if path.name not in known]
        for sandbox_id in sorted(set(broken)):
            await self._node.blocking(self._unmake, sandbox_id)
            await self._node.blocking(self._records.remove, sandbox_id)
        self._all = {record.id: Sandbox(record) for record in records}
        return {record.id: record for record in records}

    async def recover(self) -> None:
        """Finish what was interrupted: half-made sandboxes go, those whose namespaces are gone are not ready."""
        for sandbox in list(self._all.values()):
            if sandbox.record.state == "creating":
                log.info("sandbox %s was being made when the runtime ended; it is taken away", sandbox.id)
                await self._undo(sandbox)
            elif sandbox.record.state == "ready" and not self._intact(sandbox):
                log.info("sandbox %s has lost its namespaces", sandbox.id)
                await self.stop(sandbox)

    def _intact(self, sandbox: Sandbox) -> bool:
        pins = self._pins(sandbox.id)
        if not self._node.options.sandbox_run(sandbox.id).exists():
            return False
        if pins.is_dir() and not all(namespaces.is_pinned(pin) for pin in pins.iterdir()):
            return False
        return not sandbox.record.pause or self._pause_lives(sandbox)


def unprivileged(users: UserMapping | None) -> dict[str, str]:
    """What programs of pods may do in their own network: listen below 1024 and send ICMP echo without privileges."""
    last = users.last_gid if users is not None else LAST_GROUP
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {last}"}


def _name(config: api_pb2.PodSandboxConfig) -> tuple[str, str, str, int]:
    metadata = config.metadata
    return metadata.name, metadata.namespace, metadata.uid, metadata.attempt


def bits_per_second(text: str) -> int:
    """The value of a bandwidth annotation; 0 (unlimited) for an empty or unreadable one."""
    try:
        return Quantity.parse(text).value() if text else 0
    except ValueError:
        log.warning("%r is no bandwidth; it is not limited", text)
        return 0


def resolv_conf(dns: api_pb2.DNSConfig) -> str:
    """resolv.conf(5) for the sandbox's DNS configuration."""
    lines = []
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}")
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "\n".join(lines) + "\n"
