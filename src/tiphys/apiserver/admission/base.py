"""What plug-ins share: which writes they look at, and how they refuse."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation, idle
from tiphys.apiserver.admission.webhooks.interface import Versions, WebhookCaller
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Authorizer
from tiphys.apiserver.authz.rules import PolicyRule
from tiphys.apiserver.registry.strategy import Reader
from tiphys.base.clock import Clock, SystemClock
from tiphys.machinery.errors import StatusError, forbidden
from tiphys.machinery.meta import GroupResource

Object = dict[str, Any]
CREATE: Final = frozenset({Operation.CREATE})
UPDATE: Final = frozenset({Operation.UPDATE})
WRITE: Final = CREATE | UPDATE


class StatusWriter(Protocol):
    """Writes on the server's own behalf: statuses, and objects that others need."""

    async def create(self, group: str, version: str, plural: str, obj: Object) -> bool:
        """Create an object; False when it was there already."""

    async def change_status(
        self, group: str, plural: str, namespace: str, name: str, change: Callable[[Object], None]
    ) -> None:
        """Call `change` with a copy of the object and store it; again when somebody was faster. Its errors end it."""


class RuleResolver(Protocol):
    """Knows what the roles in the cluster allow."""

    def rules_for(self, user: UserInfo, namespace: str) -> Sequence[PolicyRule]:
        """Every rule `user` has in `namespace` ("" for cluster-wide only)."""

    def rules_of_role(self, kind: str, namespace: str, name: str) -> Sequence[PolicyRule] | None:
        """The rules of a Role or ClusterRole; None when it does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionParts:
    """What of the server plug-ins may use."""

    reader: Reader
    authorizer: Authorizer
    rules: RuleResolver
    statuses: StatusWriter
    webhooks: WebhookCaller
    versions: Versions
    # Documents of `--admission-control-config-file` by the name of the plug-in.
    configuration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    monotonic: Callable[[], float] = time.monotonic  # seconds
    clock: Clock = field(default_factory=SystemClock)
    # What plug-ins have to be closed with the server.
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


class AdmissionPlugin:
    """A plug-in that looks at some operations on some resources, and does nothing to them by default."""

    name: str = ""
    operations: ClassVar[frozenset[Operation]] = WRITE
    # (group, resource[/subresource]); empty: every resource without its subresources.
    resources: ClassVar[frozenset[tuple[str, str]]] = frozenset()

    def __init__(self, parts: AdmissionParts) -> None:
        self.reader = parts.reader
        self.authorizer = parts.authorizer

    def handles(self, attributes: AdmissionAttributes) -> bool:
        if attributes.operation not in self.operations:
            return False
        if not self.resources:
            return not attributes.subresource
        resource = attributes.resource.resource
        if attributes.subresource:
            resource = f"{resource}/{attributes.subresource}"
        return (attributes.resource.group, resource) in self.resources

    @idle
    async def admit(self, attributes: AdmissionAttributes) -> None:
        """Nothing is changed."""

    @idle
    async def validate(self, attributes: AdmissionAttributes) -> None:
        """Everything passes."""


def refuse(attributes: AdmissionAttributes, message: str) -> StatusError:
    """The 403 of a plug-in: `pods "a" is forbidden: <message>`."""
    resource = GroupResource(attributes.resource.group, attributes.resource.resource)
    return forbidden(resource, name_of(attributes), message)


def name_of(attributes: AdmissionAttributes) -> str:
    """Name of the object, which may not have one yet when it is generated."""
    if attributes.name or attributes.object is None:
        return attributes.name
    return str(attributes.object.get("metadata", {}).get("name", ""))


def containers(spec: Object, *keys: str) -> Iterator[Object]:
    """The containers of a pod spec, of the lists named, in their order."""
    for key in keys or ("initContainers", "containers"):
        yield from spec.get(key) or ()
