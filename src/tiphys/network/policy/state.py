"""Policies, pods and namespaces in; the table's content and the script from the last content to it out. Pure.

What is where:

    local pod ──→ the policies that select it, a direction ──→ combination chain ──→ policy chains
                                                                                        │ use
    every pod ──→ members of the selections and named ports ──→ sets  ←─────────────────┘

Rules are looked at again only when a policy or a pod of this node changes; another pod changes
elements of the sets that are in use. A policy that selects no pod of this node is in no chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tiphys.machinery.meta import ObjectName
from tiphys.network.policy import layout
from tiphys.network.policy.layout import EGRESS, INGRESS, NAME, in_family
from tiphys.network.policy.model import NamedPort, PodFacts, Policy, Selection

CHUNK: Final = 5000  # elements in one command
Source = Selection | NamedPort
# The policies that select a pod, for ingress and for egress; None: no policy, everything passes.
Selected = tuple[tuple[ObjectName, ...] | None, tuple[ObjectName, ...] | None]


@dataclass(slots=True)
class Content:
    """What is in the table besides the base: set → elements, chain → rules, map → address → verdict."""

    sets: dict[str, frozenset[str]] = field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """One direction of a policy: its chain, its rules, and by set name whom they name."""

    policy: Policy
    chain: str
    rules: tuple[str, ...]
    sources: Mapping[str, Source]


class PolicyState:
    """The policies of one node. One thread. `versions`: the IP versions of pods."""

    def __init__(self, versions: Sequence[int] = (4,)) -> None:
        self.versions = tuple(versions)
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._pods: dict[str, dict[ObjectName, PodFacts]] = defaultdict(dict)
        self._policies: dict[str, dict[ObjectName, Policy]] = defaultdict(dict)
        self._local: set[ObjectName] = set()
        self._members: dict[Source, dict[ObjectName, PodFacts]] = {}
        # What was worked out for the policies and combinations in use; a pod of this node changes few of them.
        self._compiled: dict[tuple[ObjectName, str], _Compiled] = {}
        self._combinations: dict[tuple[tuple[ObjectName, ...], str], tuple[str, tuple[str, ...]]] = {}
        self._selected: dict[ObjectName, Selected] = {}
        self._dirty_sources: set[Source] = set()
        self._rules_changed = True
        self._have = Content()
        self._want = Content()

    # --- what there is -----------------------------------------------------------------------

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        """A namespace is there with these labels."""
        if self._namespaces.get(name) == labels:
            return
        self._namespaces[name] = labels
        for pod in self._pods.get(name, {}).values():
            self._place(pod)

    def drop_namespace(self, name: str) -> None:
        self._namespaces.pop(name, None)

    def put_pod(self, pod: PodFacts) -> bool:
        """A pod is there, or is another now; False when nothing of it changed."""
        before = self._pods[pod.name.namespace].get(pod.name)
        if before == pod:
            return False
        self._pods[pod.name.namespace][pod.name] = pod
        self._place(pod)
        if pod.is_local:
            self._local.add(pod.name)
            self._select(pod)
            self._rules_changed = True
        elif pod.name in self._local:
            self._forget_local(pod.name)
        return True

    def drop_pod(self, name: ObjectName) -> bool:
        """A pod has no address any more; False when it was not known."""
        if self._pods[name.namespace].pop(name, None) is None:
            return False
        for source, members in self._members.items():
            if members.pop(name, None) is not None:
                self._dirty_sources.add(source)
        if name in self._local:
            self._forget_local(name)
        return True

    def put_policy(self, policy: Policy) -> None:
        """A policy is there, or is another now."""
        self._policies[policy.name.namespace][policy.name] = policy
        self._select_in(policy.name)

    def drop_policy(self, name: ObjectName) -> None:
        if self._policies[name.namespace].pop(name, None) is not None:
            self._select_in(name)

    def local_pods(self) -> list[PodFacts]:
        """The pods of this node."""
        return [self._pods[name.namespace][name] for name in self._local]

    # --- what follows ------------------------------------------------------------------------

    def script(self) -> str:
        """From what the last script made to what should be, in one transaction; empty: nothing to do.

        It counts as written; when it is refused, `whole` has to be written next.
        """
        changed = None
        if not self._rules_changed:
            changed = {name for source in self._dirty_sources for name in self._set_names(source)}
        have = self._have
        return difference(have, self._take(), changed)

    def whole(self) -> str:
        """The script that replaces the table, whatever is there. It counts as written."""
        empty = Content(maps={f"{name}{version}": {} for name in (INGRESS, EGRESS) for version in self.versions})
        return layout.base(self.versions) + difference(empty, self._take(), None)

    def written(self) -> Content:
        """What the last script made of the table; not to be changed."""
        return self._have

    def _take(self) -> Content:
        if self._rules_changed:
            self._rebuild_rules()
        for source in self._dirty_sources & self._members.keys():
            self._want.sets.update(self._elements(source))
        self._have = Content(dict(self._want.sets), self._want.chains, self._want.maps)
        self._rules_changed = False
        self._dirty_sources.clear()
        return self._have

    # --- inside ------------------------------------------------------------------------------

    def _select_in(self, changed: ObjectName) -> None:
        """A policy changed: look again at the pods of this node in its namespace."""
        for name in self._local:
            if name.namespace == changed.namespace:
                before = self._selected[name]
                after = self._select(self._pods[name.namespace][name])
                if any(changed in (policies or ()) for policies in (*before, *after)):
                    self._rules_changed = True

    def _select(self, pod: PodFacts) -> Selected:
        """Which policies select a pod of this node, for ingress and for egress; None: none does."""
        mine = [
            policy
            for _, policy in sorted(self._policies.get(pod.name.namespace, {}).items())
            if policy.subject.pods.matches(pod.labels)
        ]
        ingress = tuple(policy.name for policy in mine if policy.ingress is not None)
        egress = tuple(policy.name for policy in mine if policy.egress is not None)
        self._selected[pod.name] = (ingress or None, egress or None)
        return self._selected[pod.name]

    def _forget_local(self, name: ObjectName) -> None:
        self._local.discard(name)
        del self._selected[name]
        self._rules_changed = True

    def _place(self, pod: PodFacts) -> None:
        """Put a pod into the sources it belongs to now, and out of the others."""
        for source, members in self._members.items():
            before = members.get(pod.name)
            if self._belongs(source, pod):
                members[pod.name] = pod
                if before is None or (before.ips, before.ports) != (pod.ips, pod.ports):
                    self._dirty_sources.add(source)
            elif before is not None:
                del members[pod.name]
                self._dirty_sources.add(source)

    def _belongs(self, source: Source, pod: PodFacts) -> bool:
        if isinstance(source, NamedPort):
            return any(port == source for port, _ in pod.ports)
        namespace = pod.name.namespace
        if source.namespaces is None and source.namespace != namespace:
            return False
        return source.covers(namespace, self._namespaces.get(namespace, {})) and source.pods.matches(pod.labels)

    def _fill(self, source: Source) -> None:
        """The members of a source that comes into use."""
        if isinstance(source, NamedPort):
            found = [pod for pods in self._pods.values() for pod in pods.values() if self._belongs(source, pod)]
        else:  # a namespace is judged once, not with each of its pods
            spaces = [source.namespace] if source.namespaces is None else list(self._pods)
            meant = [each for each in spaces if source.covers(each, self._namespaces.get(each, {}))]
            pods = (pod for space in meant for pod in self._pods.get(space, {}).values())
            found = [pod for pod in pods if source.pods.matches(pod.labels)]
        self._members[source] = {pod.name: pod for pod in found}

    def _set_names(self, source: Source) -> list[str]:
        return [in_family(source.set_name, version) for version in self.versions]

    def _elements(self, source: Source) -> dict[str, frozenset[str]]:
        found: dict[int, list[str]] = {version: [] for version in self.versions}
        for pod in self._members[source].values():
            numbers = [""] if isinstance(source, Selection) else [f" . {n}" for port, n in pod.ports if port == source]
            for ip in pod.ips:
                found.get(layout.family_of(ip), []).extend(f"{ip}{number}" for number in numbers)
        return {in_family(source.set_name, version): frozenset(texts) for version, texts in found.items()}

    def _rebuild_rules(self) -> None:
        """Maps and chains from the selected policies, and the sets those use."""
        want = Content(maps={f"{name}{version}": {} for name in (INGRESS, EGRESS) for version in self.versions})
        own: dict[int, set[str]] = {version: set() for version in self.versions}
        compiled: dict[tuple[ObjectName, str], _Compiled] = {}
        combinations: dict[tuple[tuple[ObjectName, ...], str], tuple[str, tuple[str, ...]]] = {}
        for name in self._local:
            pod = self._pods[name.namespace][name]
            for direction, policies in zip((INGRESS, EGRESS), self._selected[name], strict=True):
                if policies is None:
                    continue
                key = (policies, direction)
                if key not in combinations:
                    combinations[key] = self._combinations.get(key) or self._combination(policies, direction)
                    for each in policies:
                        if (each, direction) not in compiled:
                            compiled[each, direction] = self._compile(each, direction)
                chain, rules = combinations[key]
                want.chains[chain] = rules
                for ip in pod.ips:
                    version = layout.family_of(ip)
                    if version in own:
                        want.maps[f"{direction}{version}"][ip] = f"goto {chain}"
                        own[version].add(f"{ip} . {ip}")
        want.chains.update({each.chain: each.rules for each in compiled.values()})
        sources: dict[str, Source] = {}
        for found in compiled.values():
            sources.update(found.sources)
        self._use(want, sources.values())
        want.sets.update({f"self{version}": frozenset(texts) for version, texts in own.items()})
        self._want, self._compiled, self._combinations = want, compiled, combinations

    def _use(self, want: Content, sources: Collection[Source]) -> None:
        """Know the members of exactly these sources, and put their sets into the content."""
        for source in self._members.keys() - set(sources):
            del self._members[source]
        for source in sources:
            if source not in self._members:
                self._fill(source)
                want.sets.update(self._elements(source))
            else:
                want.sets.update({each: self._want.sets[each] for each in self._set_names(source)})

    def _compile(self, name: ObjectName, direction: str) -> _Compiled:
        policy = self._policies[name.namespace][name]
        known = self._compiled.get((name, direction))
        if known is not None and known.policy is policy:
            return known
        sources: dict[str, Source] = {}
        for rule in (policy.ingress if direction == INGRESS else policy.egress) or ():
            named: tuple[Source, ...] = (*rule.selections, *rule.named_ports)
            sources.update({each.set_name: each for each in named})
        rules = layout.policy_rules(policy, direction, self.versions)
        return _Compiled(policy, layout.policy_chain(name, direction), rules, sources)

    @staticmethod
    def _combination(policies: Sequence[ObjectName], direction: str) -> tuple[str, tuple[str, ...]]:
        """The chain of the pods these policies select, and its rules."""
        jumps = (f"jump {layout.policy_chain(each, direction)}" for each in policies)
        return layout.combination_chain(policies, direction), (*jumps, "drop")


def difference(have: Content, want: Content, only_sets: set[str] | None) -> str:
    """The script from one content to another. `only_sets`: nothing but these sets can differ; None: anything can.

    The order is that of references: sets, policies' chains, combinations, maps; away in reverse.
    """
    parts: list[str] = []
    removed: list[str] = []
    if only_sets is None:
        new = [name for name in want.sets if name not in have.sets and not name.startswith("self")]
        parts.extend(layout.set_declaration(name) for name in new)
        removed = [name for name in have.sets if name not in want.sets]
    for name in want.sets if only_sets is None else sorted(only_sets & want.sets.keys()):
        before, after = have.sets.get(name, frozenset()), want.sets[name]
        if before != after:
            parts.extend(_elements("delete", name, sorted(before - after)))
            parts.extend(_elements("add", name, sorted(after - before)))
    if only_sets is not None:
        return "".join(parts)
    changed = {name: rules for name, rules in want.chains.items() if have.chains.get(name) != rules}
    parts.extend(f"add chain {NAME} {name}\n" for name in changed if name not in have.chains)
    for name, rules in changed.items():
        if name in have.chains:
            parts.append(f"flush chain {NAME} {name}\n")
        parts.extend(f"add rule {NAME} {name} {rule}\n" for rule in rules)
    for name, entries in want.maps.items():
        before_map = have.maps.get(name, {})
        stale = [f"{key} : {value}" for key, value in before_map.items() if entries.get(key) != value]
        fresh = [f"{key} : {value}" for key, value in entries.items() if before_map.get(key) != value]
        parts.extend(_elements("delete", name, stale))
        parts.extend(_elements("add", name, fresh))
    gone = [name for name in have.chains if name not in want.chains]
    parts.extend(f"flush chain {NAME} {name}\n" for name in gone)
    # Combinations jump to policies: all are empty before the first is removed.
    parts.extend(f"delete chain {NAME} {name}\n" for name in gone)
    parts.extend(f"delete set {NAME} {name}\n" for name in removed)
    return "".join(parts)


def _elements(verb: str, name: str, texts: Sequence[str]) -> list[str]:
    return [
        f"{verb} element {NAME} {name} {{ {', '.join(texts[at : at + CHUNK])} }}\n"
        for at in range(0, len(texts), CHUNK)
    ]
