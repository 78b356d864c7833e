"""Runs CNI plugins of other makers: one process a plugin and command, as the specification says.

ADD goes through the list in order, each plugin seeing the result of the one before; the last
result is kept in a file, which CHECK and DEL are given; DEL goes backwards. GC and STATUS are
asked of lists of version 1.1.0. https://www.cni.dev/docs/spec/#section-2-execution-protocol
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tiphys.network.cni.config import NetworkList
from tiphys.network.cni.model import NetworkError, Pod, PodInterface, PortMapping

# A plugin that takes longer hangs; the kubelet gives up on a sandbox after four minutes.
PLUGIN_TIMEOUT: Final = 90.0  # seconds
INTERFACE: Final = "eth0"
# STATUS: error codes 50 and 51, "the plugin is not available".
_ARGUMENTS: Final = "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}"


class Runner:
    """Connects pods by one network list. `cache` keeps results across restarts."""

    def __init__(
        self, network: NetworkList, bin_dirs: Sequence[Path], cache: Path, *, timeout: float = PLUGIN_TIMEOUT
    ) -> None:
        self._network = network
        self._bin_dirs = tuple(bin_dirs)
        self._cache = cache
        self._timeout = timeout

    async def add(self, pod: Pod) -> PodInterface:
        """Connect a pod. Raises NetworkError; what was half done is taken away again."""
        result: dict[str, Any] | None = None
        # Kept before the first plugin runs, so that a pod cut off in the middle is still found by gc.
        self._keep(pod, None)
        try:
            for plugin in self._network.plugins:
                result = await self._run("ADD", plugin, pod, result)
            self._keep(pod, result)
            return interface_of(result or {})
        except BaseException:
            with suppress(NetworkError):
                await self.delete(pod)
            raise

    async def delete(self, pod: Pod) -> None:
        """Disconnect a pod. Raises NetworkError when a plugin fails; then it can be tried again."""
        known = self._kept(pod.sandbox_id)
        previous = (known or {}).get("result") if self._network.at_least("0.4.0") else None
        for plugin in reversed(self._network.plugins):
            await self._run("DEL", plugin, pod, previous)
        with suppress(FileNotFoundError):
            self._file(pod.sandbox_id).unlink()

    async def check(self, pod: Pod) -> None:
        """Let every plugin check. Raises NetworkError; lists before 0.4.0 cannot be checked."""
        if self._network.disable_check or not self._network.at_least("0.4.0"):
            return
        known = self._kept(pod.sandbox_id)
        if known is None or known.get("result") is None:
            raise NetworkError(f"no result of ADD is kept for sandbox {pod.sandbox_id}")
        for plugin in self._network.plugins:
            await self._run("CHECK", plugin, pod, known["result"])

    async def status(self) -> None:
        """Raise NetworkError when a plugin says it cannot ADD now."""
        if not self._network.at_least("1.1.0"):
            for plugin in self._network.plugins:
                self._binary(plugin["type"])
            return
        for plugin in self._network.plugins:
            await self._run("STATUS", plugin, None, None)

    async def gc(self, valid: Collection[str]) -> list[str]:
        """DEL for every kept pod not in `valid`, then GC; returns the sandboxes removed. Goes on after failures."""
        removed: list[str] = []
        for path in sorted(self._cache.glob("*.json")):
            known = self._kept(path.stem)
            if known is None or path.stem in valid:
                continue
            with suppress(NetworkError):
                await self.delete(_Remembered(path.stem, known))
                removed.append(path.stem)
        if self._network.at_least("1.1.0") and not self._network.disable_gc:
            attachments = [{"containerID": sandbox, "ifname": INTERFACE} for sandbox in valid]
            for plugin in self._network.plugins:
                with suppress(NetworkError):
                    await self._run("GC", plugin, None, None, {"cni.dev/valid-attachments": attachments})
        return removed

    # --- one plugin ------------------------------------------------------------------------

    async def _run(
        self,
        command: str,
        plugin: dict[str, Any],
        pod: Pod | None,
        previous: dict[str, Any] | None,
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        name = plugin["type"]
        config = {key: value for key, value in plugin.items() if key != "capabilities"}
        config |= {"cniVersion": self._network.cni_version, "name": self._network.name} | (more or {})
        if previous is not None:
            config["prevResult"] = previous
        if pod is not None and (runtime := runtime_config(plugin.get("capabilities") or {}, pod)):
            config["runtimeConfig"] = runtime
        process = await asyncio.create_subprocess_exec(
            self._binary(name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(command, pod),
            start_new_session=True,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(json.dumps(config).encode()), self._timeout)
        except TimeoutError:
            raise NetworkError(
                f"plugin type={name!r} failed ({command.lower()}): no answer in {self._timeout:g} s"
            ) from None
        finally:
            if process.returncode is None:
                # Its children too: they hold the pipes.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _answer(name, command, process.returncode or 0, output, errors)

    def _binary(self, name: str) -> str:
        if "/" not in name:
            for directory in self._bin_dirs:
                candidate = directory / name
                if os.access(candidate, os.X_OK):
                    return str(candidate)
        places = ", ".join(str(directory) for directory in self._bin_dirs)
        raise NetworkError(f'failed to find plugin "{name}" in path [{places}]')

    def _environment(self, command: str, pod: Pod | None) -> dict[str, str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        environment |= {"CNI_COMMAND": command, "CNI_PATH": ":".join(str(each) for each in self._bin_dirs)}
        if pod is not None:
            environment |= {
                "CNI_CONTAINERID": pod.sandbox_id,
                "CNI_NETNS": pod.netns_path,
                "CNI_IFNAME": INTERFACE,
                "CNI_ARGS": _ARGUMENTS.format(pod.namespace, pod.name, pod.sandbox_id, pod.uid),
            }
        return environment

    # --- kept results ----------------------------------------------------------------------

    def _file(self, sandbox: str) -> Path:
        return self._cache / f"{sandbox}.json"

    def _keep(self, pod: Pod, result: dict[str, Any] | None) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {"netns": pod.netns_path, "name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
        # A plugin takes away on DEL what it is told it was asked for.
        values["ports"] = [
            [each.protocol, each.container_port, each.host_port, each.host_ip] for each in pod.port_mappings
        ]
        values["bandwidth"] = [pod.ingress_bandwidth, pod.egress_bandwidth]
        temporary = self._cache / f".{pod.sandbox_id}"
        temporary.write_text(json.dumps(values | {"result": result}))
        temporary.replace(self._file(pod.sandbox_id))

    def _kept(self, sandbox: str) -> dict[str, Any] | None:
        try:
            values: dict[str, Any] = json.loads(self._file(sandbox).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return values


class _Remembered:
    """A pod of which only its kept result is left: enough to delete it."""

    def __init__(self, sandbox: str, known: dict[str, Any]) -> None:
        self.sandbox_id = sandbox
        self.netns_path = known["netns"] if os.path.exists(known["netns"]) else ""
        self.name = known["name"]
        self.namespace = known["namespace"]
        self.uid = known["uid"]
        self.port_mappings = tuple(PortMapping(*each) for each in known.get("ports", ()))
        self.ingress_bandwidth, self.egress_bandwidth = known.get("bandwidth", (0, 0))


def runtime_config(capabilities: dict[str, Any], pod: Pod) -> dict[str, Any]:
    """What a plugin that declares these capabilities is told of the pod.

    https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration
    """
    config: dict[str, Any] = {}
    if capabilities.get("portMappings") and pod.port_mappings:
        config["portMappings"] = [
            {
                "hostPort": each.host_port,
                "containerPort": each.container_port,
                "protocol": each.protocol.lower(),
                **({"hostIP": each.host_ip} if each.host_ip else {}),
            }
            for each in pod.port_mappings
        ]
    if capabilities.get("bandwidth") and (pod.ingress_bandwidth or pod.egress_bandwidth):
        burst = 2**31 - 1
        config["bandwidth"] = {}
        if pod.ingress_bandwidth:
            config["bandwidth"] |= {"ingressRate": pod.ingress_bandwidth, "ingressBurst": burst}
        if pod.egress_bandwidth:
            config["bandwidth"] |= {"egressRate": pod.egress_bandwidth, "egressBurst": burst}
    return config


def interface_of(result: dict[str, Any]) -> PodInterface:
    """The pod's interface in a result of ADD. Raises NetworkError when it has no address."""
    addresses = [str(each["address"]) for each in result.get("ips") or ()]
    if not addresses:
        addresses = [str(result[key]["ip"]) for key in ("ip4", "ip6") if result.get(key)]  # before 0.3.0
    if not addresses:
        raise NetworkError("the CNI plugins gave the pod no IP address")
    inside = [each for each in result.get("interfaces") or () if each.get("sandbox") and each["name"] == INTERFACE]
    gateways = [each["gateway"] for each in result.get("ips") or () if each.get("gateway")]
    return PodInterface(
        ips=tuple(address.split("/")[0] for address in addresses),
        mac=inside[0].get("mac", "") if inside else "",
        gateway=gateways[0] if gateways else "",
    )


def _failure(name: str, command: str) -> str:
    return f"plugin type={name!r} failed ({command.lower()})"


def _answer(name: str, command: str, status: int, output: bytes, errors: bytes) -> dict[str, Any]:
    what = _failure(name, command)
    try:
        values = json.loads(output) if output.strip() else {}
    except ValueError:
        values = None
    if status != 0:
        if isinstance(values, dict) and values.get("msg"):
            details = f": {values['details']}" if values.get("details") else ""
            raise NetworkError(f"{what}: {values['msg']}{details}")
        text = (errors or output).decode(errors="replace").strip()[:500]
        raise NetworkError(f"{what}: exit status {status}{': ' + text if text else ''}")
    if not isinstance(values, dict):
        raise NetworkError(f"{what}: its output is not JSON: {output[:80].decode(errors='replace')!r}")
    return values
