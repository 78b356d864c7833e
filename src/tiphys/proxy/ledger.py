"""The elements of a table's maps and sets: those wanted, by whom, and those the kernel has. Pure.

```
 wanted    (service-ips, 10.96.0.1 . tcp . 443) ─→ {default/kubernetes: "17", …}   the first owner's value counts
 have      (service-ips, 10.96.0.1 . tcp . 443) ─→ "17"
 dirty     the elements whose wanted and had values may differ
```
A key wanted by several Services (two with one external IP) belongs to the first of them; a set element
shared by several (a pod behind two Services) goes with the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

from tiphys.proxy.model import PortKey, ServiceKey

# One command's elements: keeps libnftables' parser and the netlink messages of a big load reasonable.
CHUNK: Final = 5000
# Owner of the elements that belong to the node and not to a Service.
NODE: Final = PortKey(ServiceKey("", ""), "", "")


class Element(NamedTuple):
    """Where an element is: the map or set, and its key."""

    container: str
    key: str


# Element → value; the value of a set's element is empty.
Elements = dict[Element, str]


class Ledger:
    """See the module. `commands` gives text, `applied` is told it was accepted."""

    def __init__(self) -> None:
        self._wanted: dict[Element, dict[PortKey, str]] = {}
        self._have: dict[Element, str] = {}
        self._dirty: set[Element] = set()
        self._of_node: dict[str, tuple[str, ...]] = {}

    def adopt(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """What the kernel has, container → key → value, in place of what it was thought to have."""
        self._have = {Element(name, key): value for name, elements in found.items() for key, value in elements.items()}
        self._dirty.update(self._have)
        self._dirty.update(self._wanted)

    def forget_kernel(self) -> None:
        """The kernel has nothing: everything wanted has to be written."""
        self._have.clear()
        self._dirty.update(self._wanted)

    def had(self, element: Element) -> str | None:
        """The value the kernel has."""
        return self._have.get(element)

    def replace(self, owner: PortKey, before: Mapping[Element, str], after: Mapping[Element, str]) -> None:
        """What an owner wants, in place of what it wanted."""
        for element in before:
            if element not in after:
                owners = self._wanted.get(element)
                if owners is not None:
                    owners.pop(owner, None)
                    if not owners:
                        del self._wanted[element]
                self._dirty.add(element)
        for element, value in after.items():
            if before.get(element) != value:
                self._wanted.setdefault(element, {})[owner] = value
                self._dirty.add(element)

    def replace_of_node(self, container: str, keys: tuple[str, ...]) -> None:
        """The elements of a set that belongs to the node alone."""
        last = self._of_node.get(container, ())
        if keys != last:
            self.replace(NODE, *({Element(container, key): "" for key in each} for each in (last, keys)))
            self._of_node[container] = keys

    def commands(self, table: str) -> list[str]:
        """nft's commands that bring the kernel to what is wanted: what goes first, then what comes."""
        deletes: dict[str, list[str]] = defaultdict(list)
        adds: dict[str, list[str]] = defaultdict(list)
        for element in self._dirty:
            want, have = self._value(element), self._have.get(element)
            if want == have:
                continue
            if have is not None:
                deletes[element.container].append(element.key)
            if want is not None:
                adds[element.container].append(f"{element.key} : {want}" if want else element.key)
        return [*_commands("delete", table, deletes), *_commands("add", table, adds)]

    def applied(self) -> None:
        """The last commands were accepted by the kernel."""
        for element in self._dirty:
            value = self._value(element)
            if value is None:
                self._have.pop(element, None)
            else:
                self._have[element] = value
        self._dirty.clear()

    def _value(self, element: Element) -> str | None:
        owners = self._wanted.get(element)
        return next(iter(owners.values())) if owners else None


def _commands(verb: str, table: str, elements: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{verb} element {table} {name} {{ {', '.join(texts[at : at + CHUNK])} }}\n"
        for name, texts in elements.items()
        for at in range(0, len(texts), CHUNK)
    ]
