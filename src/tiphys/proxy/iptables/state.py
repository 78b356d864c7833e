"""The rules there should be and those that were written, and the iptables-restore input between them. Pure.

A chain of a service port is written whole (naming it empties it); in the lists all services share
only the lines that changed are deleted and inserted, so that a change costs what it changes.

iptables-restore looks chains up one after the other in the list of those a transaction names, so that one of all
chains of 10,000 Services would take minutes: many go in several, a service port's chains together, and the lists
that lead to them last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from tiphys.proxy.iptables.chains import (
    LISTS,
    MARK_MASQ,
    NAT_NODEPORTS,
    PREFIXES,
    REJECT,
    List,
    PortRules,
    Site,
    port_rules,
)
from tiphys.proxy.model import Choice, PortKey, ServicePort

MARK: Final = "0x4000/0x4000"
# About as many chains a transaction: a few thousand are looked up in less time than a process takes to start.
CHAINS: Final = 4000
POSTROUTING: Final = "KUBE-POSTROUTING"
FORWARD: Final = "KUBE-FORWARD"
# What the kernel's own chains send to ours: table, chain, rule.
_NEW: Final = "-m conntrack --ctstate NEW"
JUMPS: Final = (
    ("nat", "PREROUTING", "-j KUBE-SERVICES"),
    ("nat", "OUTPUT", "-j KUBE-SERVICES"),
    ("nat", "POSTROUTING", f"-j {POSTROUTING}"),
    ("filter", "INPUT", f"{_NEW} -j KUBE-PROXY-FIREWALL"),
    ("filter", "INPUT", f"{_NEW} -j KUBE-EXTERNAL-SERVICES"),
    ("filter", "FORWARD", f"-j {FORWARD}"),
    ("filter", "FORWARD", f"{_NEW} -j KUBE-PROXY-FIREWALL"),
    ("filter", "FORWARD", f"{_NEW} -j KUBE-SERVICES"),
    ("filter", "FORWARD", f"{_NEW} -j KUBE-EXTERNAL-SERVICES"),
    ("filter", "OUTPUT", f"{_NEW} -j KUBE-PROXY-FIREWALL"),
    ("filter", "OUTPUT", f"{_NEW} -j KUBE-SERVICES"),
    ("filter", "OUTPUT", f"{_NEW} -j KUBE-EXTERNAL-SERVICES"),
)
FIXED: Final[dict[List, tuple[str, ...]]] = {
    ("nat", MARK_MASQ): (f"-j MARK --set-xmark {MARK}",),
    ("nat", POSTROUTING): (
        f"-m mark ! --mark {MARK} -j RETURN",
        "-j MARK --xor-mark 0x4000",
        "-j MASQUERADE --random-fully",
    ),
    ("filter", FORWARD): (
        f"-m mark --mark {MARK} -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
}


class IptablesRules:
    """The rules of one address family. One thread."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._services: dict[PortKey, tuple[ServicePort, Choice]] = {}
        self._rules: dict[PortKey, PortRules] = {}
        self._node_ips: tuple[str, ...] = ()
        self._touched: set[PortKey] = set()
        self._written: dict[PortKey, PortRules] = {}
        self._node_ips_written: tuple[str, ...] = ()
        self._cidrs: tuple[str, ...] = ()
        self._cidrs_written: tuple[str, ...] = ()

    def set_service(self, service: ServicePort, choice: Choice) -> None:
        """As rules.Wanted."""
        self._services[service.key] = (service, choice)
        self._rules[service.key] = port_rules(service, choice, self.site, self._node_ips)
        self._touched.add(service.key)

    def remove_service(self, key: PortKey) -> None:
        """As rules.Wanted."""
        if self._services.pop(key, None) is not None:
            del self._rules[key]
            self._touched.add(key)

    def set_node_ips(self, addresses: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        if addresses == self._node_ips:
            return
        self._node_ips = addresses
        for service, choice in list(self._services.values()):
            if service.node_port:
                self.set_service(service, choice)

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        self._cidrs = cidrs

    # --- input for iptables-restore --noflush --------------------------------------------------

    def flush(self) -> list[str]:
        """The difference to what was written, as transactions in their order; it counts as written."""
        batches = _batches(sorted(self._touched), self._written, self._rules)
        scripts = [self._changes(keys) for keys in batches]
        ends = {
            "nat": self._node_port_lines(self._node_ips_written, self._node_ips),
            "filter": self._unserved_lines(self._cidrs_written, self._cidrs),
        }
        scripts.append("".join(transaction(table, lines) for table, lines in ends.items()))
        self._count_as_written()
        return [script for script in scripts if script]

    def _changes(self, keys: Iterable[PortKey]) -> str:
        """What has to be done for these service ports."""
        body: dict[str, list[str]] = {"nat": [], "filter": []}
        declared: list[str] = []
        removed: list[str] = []
        for key in keys:
            before, after = self._written.get(key, PortRules()), self._rules.get(key, PortRules())
            for name, rules in after.chains.items():
                if before.chains.get(name) != rules:
                    declared.append(name)
                    body["nat"] += [f"-A {name} {rule}" for rule in rules]
            removed += [name for name in before.chains if name not in after.chains]
            for where in LISTS:
                table, name = where
                old, new = Counter(before.lines.get(where, ())), Counter(after.lines.get(where, ()))
                body[table] += [f"-D {name} {line}" for line in (old - new).elements()]
                body[table] += [f"-I {name} {line}" for line in (new - old).elements()]
        body["nat"] = [*_declared((*declared, *removed)), *body["nat"], *(f"-X {name}" for name in removed)]
        return "".join(transaction(table, lines) for table, lines in body.items())

    def whole(self, found: Mapping[str, Mapping[str, int]], jumps: Iterable[tuple[str, str, str]]) -> list[str]:
        """Everything anew, as transactions in their order; it counts as written.

        `found`: the chains there are in each table; those of services no more are removed.
        `jumps`: those of JUMPS that are missing.
        """
        *early, last = list(_batches(self._rules, self._rules)) or [[]]
        known = {name for each in self._rules.values() for name in each.chains}
        scripts = []
        if early:
            # iptables keeps chains by name in a list, which the kernel's order, that of their making, lets it fill
            # from the front, now and whenever somebody reads them.
            new = known - found.get("nat", {}).keys()
            fixed = {name: rules for (table, name), rules in FIXED.items() if table == "nat"}
            declared = _declared(sorted(new | fixed.keys(), reverse=True))
            scripts.append(transaction("nat", [*declared, *_appended(fixed)]))
        for keys in early:
            chains = self._chains(keys)
            scripts.append(transaction("nat", [*_declared(sorted(chains)), *_appended(chains)]))
        stale = {
            table: [each for each in found.get(table, {}) if each.startswith(PREFIXES) and each not in known]
            for table in ("nat", "filter")
        }
        scripts.append(self._last(self._chains(last), list(jumps)))
        scripts += [script for table, names in stale.items() for script in removal(table, names)]
        self._count_as_written()
        return [script for script in scripts if script]

    def _last(self, chains: Mapping[str, Sequence[str]], missing: Sequence[tuple[str, str, str]]) -> str:
        """These chains of service ports, and the fixed ones and the lists of all, with what leads to them."""
        script = []
        for table in ("nat", "filter"):
            names = [name for where, name in (*FIXED, *LISTS) if where == table]
            lines = _declared(sorted((*names, *(chains if table == "nat" else ()))))
            # Inserted in front, so the last comes first.
            lines += [f"-I {chain} {rule}" for where, chain, rule in reversed(missing) if where == table]
            for (where, name), fixed in FIXED.items():
                lines += [f"-A {name} {rule}" for rule in fixed if where == table]
            for where, name in LISTS:
                if where == table:
                    for each in self._rules.values():
                        lines += [f"-A {name} {line}" for line in each.lines.get((where, name), ())]
            if table == "nat":
                lines += [*self._node_port_lines((), self._node_ips), *_appended(chains)]
            else:
                lines += self._unserved_lines((), self._cidrs)
            script.append(transaction(table, lines))
        return "".join(script)

    def _chains(self, keys: Iterable[PortKey]) -> dict[str, list[str]]:
        return {name: rules for key in keys for name, rules in self._rules[key].chains.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Table → chain → number of rules, as written."""
        found: dict[str, Counter[str]] = {"nat": Counter(), "filter": Counter()}
        for (table, name), fixed in FIXED.items():
            found[table][name] = len(fixed)
        for table, name in LISTS:
            found[table][name] += 0
        for each in self._written.values():
            for name, rules in each.chains.items():
                found["nat"][name] = len(rules)
            for (table, name), lines in each.lines.items():
                found[table][name] += len(lines)
        found["nat"]["KUBE-SERVICES"] += len(self._node_ips_written)
        found["filter"]["KUBE-SERVICES"] += len(self._cidrs_written)
        return {table: dict(chains) for table, chains in found.items()}

    def _count_as_written(self) -> None:
        self._written = dict(self._rules)
        self._node_ips_written = self._node_ips
        self._cidrs_written = self._cidrs
        self._touched.clear()

    @staticmethod
    def _node_port_lines(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
        """A service's own address goes first, so these stay at the end."""
        rule = "KUBE-SERVICES -d {} -m addrtype --dst-type LOCAL -j " + NAT_NODEPORTS[1]
        return _difference(rule, before, after)

    @staticmethod
    def _unserved_lines(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
        """What no service has of the services' ranges; these stay at the end too."""
        return _difference(f"KUBE-SERVICES -d {{}} -j {REJECT}", before, after)


def _difference(rule: str, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Commands that delete the rule of each value no more there, and append that of each new one."""
    gone = [f"-D {rule.format(each)}" for each in before if each not in after]
    return gone + [f"-A {rule.format(each)}" for each in after if each not in before]


def removal(table: str, names: Collection[str]) -> Iterator[str]:
    """Transactions that remove chains only they themselves lead to."""
    ordered = sorted(names)
    batches = [ordered[first : first + CHAINS] for first in range(0, len(ordered), CHAINS)]
    if len(batches) > 1:  # one may lead to one of another batch
        yield from (transaction(table, _declared(each)) for each in batches)
    for each in batches:
        yield transaction(table, [*_declared(each), *(f"-X {name}" for name in each)])


def _batches(keys: Iterable[PortKey], *rules: Mapping[PortKey, PortRules]) -> Iterator[list[PortKey]]:
    """The keys in their order, as many together as have about CHAINS chains in all of `rules`."""
    batch: list[PortKey] = []
    room = CHAINS
    for key in keys:
        batch.append(key)
        room -= sum(len(each[key].chains) for each in rules if key in each)
        if room <= 0:
            yield batch
            batch, room = [], CHAINS
    if batch:
        yield batch


def _declared(names: Iterable[str]) -> list[str]:
    """Lines that make chains, or empty them."""
    return [f":{name} - [0:0]" for name in names]


def _appended(chains: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]


def transaction(table: str, lines: Sequence[str]) -> str:
    """Empty without lines."""
    return "\n".join([f"*{table}", *lines, "COMMIT", ""]) if lines else ""
