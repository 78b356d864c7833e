"""What a service is given when it is written: families, cluster IPs, node ports, a health-check port.

    create   families ─ cluster IPs ─ node ports ─ health-check port ─▶ commit
                └────────── all given back when the write fails ◀──────┘
    update   the same for what the new type needs and the old one had not; what it no longer needs goes after the commit
    delete   everything goes

Giving back happens in the background of the next write (`drain`), as the hooks after a commit cannot wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Final

from tiphys.apiserver.registry.core.service_addresses import (
    AddressesExhausted,
    AddressOutOfRange,
    AddressTaken,
    ClusterAddresses,
)
from tiphys.apiserver.registry.core.service_fields import (
    cluster_ips,
    is_headless,
    needs_cluster_ip,
    needs_health_check_port,
    needs_node_port,
)
from tiphys.apiserver.registry.core.service_ports import NodePorts, PortOutOfRange, PortRangeFull, PortTaken
from tiphys.apiserver.registry.core.service_validation import family_of, validate_cluster_ips
from tiphys.apiserver.registry.strategy import Finish, Object
from tiphys.machinery import field
from tiphys.machinery.errors import StatusError, invalid
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import GroupKind, ObjectName

SPEC: Final = Path("spec")
SERVICE: Final = GroupKind("", "Service")
OTHER_FAMILY: Final = {"IPv4": "IPv6", "IPv6": "IPv4"}


@dataclass(slots=True)
class _Claims:
    """What one write has claimed, and what it gives up when it succeeds."""

    addresses: list[str] = dataclass_field(default_factory=list)
    ports: list[int] = dataclass_field(default_factory=list)
    old_addresses: list[str] = dataclass_field(default_factory=list)
    old_ports: list[int] = dataclass_field(default_factory=list)


class ServiceAllocation:
    """Gives services their addresses and ports. `wake` is called when something waits to be given back."""

    def __init__(self, addresses: ClusterAddresses, ports: NodePorts, wake: Callable[[], None] = lambda: None) -> None:
        self._addresses = addresses
        self._ports = ports
        self._wake = wake
        self._freed_addresses: list[str] = []
        self._freed_ports: list[int] = []
        self._draining = asyncio.Lock()

    async def on_create(self, service: Object, dry_run: bool) -> Finish:
        """Allocate for a new service. Raises StatusError when something cannot be had."""
        await self.drain()
        claims = _Claims()
        try:
            self._default_families(service, None)
            await self._allocate(service, {}, claims, dry_run)
        except BaseException:
            self._give_back(claims.addresses, claims.ports)
            raise
        return self._finish(claims, dry_run)

    async def on_update(self, service: Object, old: Object, dry_run: bool) -> Finish:
        """Allocate for the new form of a service, and note what the old one no longer needs."""
        await self.drain()
        claims = _Claims()
        before = old.get("spec") or {}
        try:
            self._default_families(service, old)
            await self._allocate(service, before, claims, dry_run)
        except BaseException:
            self._give_back(claims.addresses, claims.ports)
            raise
        spec = service.get("spec") or {}
        kept = set(cluster_ips(spec))
        claims.old_addresses = [ip for ip in cluster_ips(before) if ip != "None" and ip not in kept]
        claims.old_ports = sorted(all_node_ports(before) - all_node_ports(spec))
        return self._finish(claims, dry_run)

    def nameless(self, service: Object) -> StatusError:
        """The refusal of a service without a name: addresses come first, and an address must say whose it is."""
        address = self._addresses.any_free(self._addresses.families()[0])
        detail = (
            f'failed to allocate IP: IPAddress.networking.k8s.io "{address}" is invalid: '
            "spec.parentRef.name: Required value"
        )
        return _refusal(service, [field.invalid(SPEC.child("clusterIPs"), [""], detail)])

    def on_delete(self, service: Object) -> None:
        """Note that everything a service had is free."""
        spec = service.get("spec") or {}
        self._give_back([ip for ip in cluster_ips(spec) if ip != "None"], sorted(all_node_ports(spec)))

    async def drain(self) -> None:
        """Give back what waits for it."""
        # One at a time: who comes second finds what the first is giving back really free.
        async with self._draining:
            addresses, self._freed_addresses = self._freed_addresses, []
            ports, self._freed_ports = self._freed_ports, []
            await self._addresses.release(addresses)
            await self._ports.release(ports)

    def _give_back(self, addresses: list[str], ports: list[int]) -> None:
        self._freed_addresses += addresses
        self._freed_ports += ports
        if addresses or ports:
            self._wake()

    def _finish(self, claims: _Claims, dry_run: bool) -> Finish:
        def finish(committed: bool) -> None:
            if committed and not dry_run:
                self._give_back(claims.old_addresses, claims.old_ports)
            else:
                self._give_back(claims.addresses, claims.ports)

        return finish

    # --- families -------------------------------------------------------------------------------------------------
    def _default_families(self, service: Object, old: Object | None) -> None:
        spec = service["spec"]
        if not needs_cluster_ip(spec):
            return
        errors = validate_cluster_ips(spec)
        if errors:
            raise _refusal(service, errors)
        before: Mapping[str, Any] = (old or {}).get("spec") or {}
        if spec.get("ipFamilyPolicy") is None and before.get("ipFamilyPolicy") and needs_cluster_ip(before):
            spec["ipFamilyPolicy"] = before["ipFamilyPolicy"]
        if not spec.get("ipFamilies") and before.get("ipFamilies") and needs_cluster_ip(before):
            spec["ipFamilies"] = list(before["ipFamilies"])
        known = self._addresses.families()
        if is_headless(spec) and not spec.get("selector"):
            self._headless_families(spec, known)
            return
        families = list(spec.get("ipFamilies") or ())
        for index, ip in enumerate(cluster_ips(spec)):
            if ip != "None" and index >= len(families):
                families.append(family_of(ip))
        if spec.get("ipFamilyPolicy") is None:
            spec["ipFamilyPolicy"] = "SingleStack"
        errors = self._family_errors(spec, families, known)
        if errors:
            raise _refusal(service, errors)
        if not families:
            families = [known[0]]
        if len(families) == 1 and spec["ipFamilyPolicy"] != "SingleStack" and OTHER_FAMILY[families[0]] in known:
            families.append(OTHER_FAMILY[families[0]])
        spec["ipFamilies"] = families

    def _headless_families(self, spec: Object, known: list[str]) -> None:
        """Without a selector nothing says which family the endpoints have: both."""
        if spec.get("ipFamilyPolicy") is None:
            spec["ipFamilyPolicy"] = "RequireDualStack"
        families = list(spec.get("ipFamilies") or ()) or [known[0]]
        if len(families) == 1 and spec["ipFamilyPolicy"] != "SingleStack":
            families.append(OTHER_FAMILY[families[0]])
        spec["ipFamilies"] = families

    def _family_errors(self, spec: Object, families: list[str], known: list[str]) -> list[FieldError]:
        policy = spec["ipFamilyPolicy"]
        errors: list[FieldError] = []
        where = SPEC.child("ipFamilyPolicy")
        if policy == "SingleStack" and len(families) > 1:
            detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
            return [field.invalid(where, policy, detail)]
        if policy == "RequireDualStack" and len(known) < 2:
            errors.append(field.invalid(where, policy, "this cluster is not configured for dual-stack services"))
        for index, family in enumerate(families):
            if family not in known:
                at = SPEC.child("ipFamilies").index(index)
                errors.append(field.invalid(at, family, "not configured on this cluster"))
        return errors

    # --- addresses and ports ----------------------------------------------------------------------------------------
    async def _allocate(self, service: Object, before: Mapping[str, Any], claims: _Claims, dry_run: bool) -> None:
        spec = service["spec"]
        if needs_cluster_ip(spec) and not is_headless(spec):
            await self._allocate_ips(service, before, claims, dry_run)
        if needs_node_port(spec) or any(port.get("nodePort") for port in spec.get("ports") or ()):
            await self._allocate_ports(service, before, claims, dry_run)
        if needs_health_check_port(spec):
            await self._allocate_health_port(service, before, claims, dry_run)

    async def _allocate_ips(self, service: Object, before: Mapping[str, Any], claims: _Claims, dry_run: bool) -> None:
        spec = service["spec"]
        owner = ObjectName(service["metadata"].get("namespace", ""), service["metadata"].get("name", ""))
        held = set(cluster_ips(before))
        ips = list(cluster_ips(spec))
        for index, family in enumerate(spec["ipFamilies"]):
            wanted = ips[index] if index < len(ips) else ""
            if wanted and wanted in held:
                continue
            taken = await self._one_ip(service, wanted, family, owner, dry_run)
            if index < len(ips):
                ips[index] = taken
            else:
                ips.append(taken)
            if not dry_run:
                claims.addresses.append(taken)
        spec["clusterIPs"] = ips
        spec["clusterIP"] = ips[0]

    async def _one_ip(self, service: Object, wanted: str, family: str, owner: ObjectName, dry_run: bool) -> str:
        problem = ""
        try:
            if not wanted:
                return self._addresses.any_free(family) if dry_run else await self._addresses.claim_any(family, owner)
            self._addresses.check(wanted)
            if not dry_run:
                await self._addresses.claim(wanted, owner)
            return wanted
        except AddressOutOfRange:
            problem = "the provided network does not match the current range"
        except AddressTaken:
            problem = "provided IP is already allocated"
        except AddressesExhausted:
            problem = "range is full"
        except StatusError as error:
            problem = error.message
        head = f"failed to allocate IP {wanted}" if wanted else "failed to allocate IP"
        value = list(cluster_ips(service["spec"])) or [""]
        raise _refusal(service, [field.invalid(SPEC.child("clusterIPs"), value, f"{head}: {problem}")])

    async def _allocate_ports(self, service: Object, before: Mapping[str, Any], claims: _Claims, dry_run: bool) -> None:
        spec = service["spec"]
        uid = service["metadata"].get("uid", "")
        held = all_node_ports(before)
        # Ports taken by this write, with the protocols each is used for.
        mine: dict[int, set[str]] = {}
        by_number: dict[int, int] = {}
        for index, port in enumerate(spec.get("ports") or ()):
            where = SPEC.child("ports").index(index).child("nodePort")
            protocol, wanted = port.get("protocol", ""), port.get("nodePort") or 0
            if not wanted and port.get("port") in by_number and protocol not in mine[by_number[port["port"]]]:
                wanted = port["nodePort"] = by_number[port["port"]]
            if wanted and wanted in mine and protocol not in mine[wanted]:
                mine[wanted].add(protocol)
                continue
            if wanted and wanted in held and wanted not in mine:
                mine[wanted] = {protocol}
                by_number.setdefault(port.get("port", 0), wanted)
                continue
            number = await self._one_port(service, where, wanted, uid, dry_run, set(mine))
            if not dry_run:
                claims.ports.append(number)
            port["nodePort"] = number
            mine[number] = {protocol}
            by_number.setdefault(port.get("port", 0), number)

    async def _one_port(
        self, service: Object, where: Path, wanted: int, uid: str, dry_run: bool, mine: set[int]
    ) -> int:
        first, last = self._ports.first, self._ports.last
        try:
            if not wanted:
                if not dry_run:
                    return await self._ports.claim_any(uid)
                free = [port for port in await self._ports.free_ports() if port not in mine]
                if not free:
                    raise PortRangeFull
                return free[0]
            if dry_run:
                if wanted in mine or not await self._ports.is_free(wanted):
                    raise PortTaken(wanted)
            else:
                await self._ports.claim(wanted, uid)
            return wanted
        except PortOutOfRange:
            problem = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
        except PortTaken:
            problem = "provided port is already allocated"
        except PortRangeFull:
            error = field.internal(where, "failed to allocate a nodePort: range is full")
            raise _refusal(service, [error]) from None
        raise _refusal(service, [field.invalid(where, wanted, problem)])

    async def _allocate_health_port(
        self, service: Object, before: Mapping[str, Any], claims: _Claims, dry_run: bool
    ) -> None:
        spec = service["spec"]
        wanted = spec.get("healthCheckNodePort") or 0
        if wanted and wanted == before.get("healthCheckNodePort"):
            return
        where = SPEC.child("healthCheckNodePort")
        number = await self._one_port(service, where, wanted, service["metadata"].get("uid", ""), dry_run, set())
        spec["healthCheckNodePort"] = number
        if not dry_run:
            claims.ports.append(number)


def all_node_ports(spec: Mapping[str, Any]) -> set[int]:
    """Node ports and the health-check port of a service."""
    ports = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    return ports


def _refusal(service: Object, errors: list[FieldError]) -> StatusError:
    return invalid(SERVICE, service["metadata"].get("name", ""), errors)
