"""Who owns whom: one node an object, by uid, with edges from owners to dependents.

        Deployment d ──► ReplicaSet d-1 ──► Pod d-1-a
                                       ──► Pod d-1-b
        (virtual) x  ──► ConfigMap c

A node is virtual while its object is known only from references to it: either its own event is
still to come, or it does not exist. Whoever reads the graph asks the server before acting on a
virtual node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tiphys.api.meta.v1 import ObjectMeta, OwnerReference

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"


@dataclass(frozen=True, slots=True)
class Identity:
    """What names an object: its kind, where it is, and which of that name it is."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.api_version} {self.kind} {place} ({self.uid})"


@dataclass(slots=True, eq=False)
class GraphNode:
    """One object. `deleting`: it has a deletionTimestamp; `foreground`: it waits for its dependents to go."""

    identity: Identity
    owners: tuple[OwnerReference, ...] = ()
    dependents: dict[str, GraphNode] = field(default_factory=dict)
    virtual: bool = False
    deleting: bool = False
    foreground: bool = False
    orphaning: bool = False

    def is_what(self, reference: OwnerReference, dependent: GraphNode) -> bool:
        """Whether a reference of `dependent` with this uid names this object's kind, and a place it may reach."""
        identity = self.identity
        reachable = identity.namespace in ("", dependent.identity.namespace)
        return reachable and identity.kind == reference.kind

    def blocking_dependents(self) -> list[GraphNode]:
        """The dependents that ask their owner to wait for them."""
        uid = self.identity.uid
        return [
            dependent
            for dependent in self.dependents.values()
            if any(owner.uid == uid and owner.block_owner_deletion for owner in dependent.owners)
        ]


class Graph:
    """All nodes. Every change returns the uids of the nodes that need another look."""

    def __init__(self) -> None:
        self.nodes: dict[str, GraphNode] = {}

    def observe(self, identity: Identity, meta: ObjectMeta) -> set[str]:
        """An object was seen, new or changed."""
        node = self.nodes.get(identity.uid)
        look: set[str] = set()
        if node is None:
            node = self.nodes[identity.uid] = GraphNode(identity)
        elif node.virtual or node.identity != identity:
            # References may have named another namespace or version; the object itself is right.
            node.identity, node.virtual = identity, False
        look |= self._link(node, meta.owner_references)
        deleting = meta.deletion_timestamp is not None
        foreground = deleting and FOREGROUND in meta.finalizers
        orphaning = deleting and ORPHAN in meta.finalizers
        if foreground and not node.foreground:
            look |= {identity.uid, *node.dependents}
        if orphaning and not node.orphaning:
            look.add(identity.uid)
        if deleting and not node.deleting:
            look |= self._waiting_owners(node)
        node.deleting, node.foreground, node.orphaning = deleting, foreground, orphaning
        return look

    def gone(self, uid: str) -> set[str]:
        """An object no longer exists."""
        node = self.nodes.pop(uid, None)
        if node is None:
            return set()
        look = set(node.dependents) | self._waiting_owners(node)
        for owner in node.owners:
            self._unlink(owner.uid, node)
        if node.dependents:
            # Its dependents still name it: they see it as virtual until they are gone or changed.
            self.nodes[uid] = GraphNode(node.identity, dependents=node.dependents, virtual=True)
        return look

    def _link(self, node: GraphNode, owners: tuple[OwnerReference, ...]) -> set[str]:
        look: set[str] = set()
        if owners == node.owners:
            return look
        before = {owner.uid: owner for owner in node.owners}
        after = {owner.uid: owner for owner in owners}
        for uid, reference in before.items():
            changed = after.get(uid)
            if changed is None:
                self._unlink(uid, node)
            if changed is None or (reference.block_owner_deletion and not changed.block_owner_deletion):
                owner = self.nodes.get(uid)
                if owner is not None and owner.foreground:
                    look.add(uid)
        node.owners = owners
        for uid, reference in after.items():
            owner = self.nodes.get(uid)
            if owner is None:
                owner = self.nodes[uid] = GraphNode(_identity_of(reference, node.identity.namespace), virtual=True)
            owner.dependents[node.identity.uid] = node
            if owner.virtual or owner.foreground or (uid not in before and not owner.is_what(reference, node)):
                look.add(node.identity.uid)
        if before and not after:
            return look
        if len(after) < len(before):
            look.add(node.identity.uid)
        return look

    def _unlink(self, owner_uid: str, node: GraphNode) -> None:
        owner = self.nodes.get(owner_uid)
        if owner is not None:
            owner.dependents.pop(node.identity.uid, None)
            if owner.virtual and not owner.dependents:
                del self.nodes[owner_uid]

    def _waiting_owners(self, node: GraphNode) -> set[str]:
        """The owners that wait for this node to go."""
        found = set()
        for reference in node.owners:
            owner = self.nodes.get(reference.uid)
            if owner is not None and owner.foreground:
                found.add(reference.uid)
        return found


def _identity_of(reference: OwnerReference, namespace: str) -> Identity:
    """The owner a dependent in `namespace` means; whether its kind has namespaces is found out later."""
    return Identity(reference.api_version, reference.kind, namespace, reference.name, reference.uid)
