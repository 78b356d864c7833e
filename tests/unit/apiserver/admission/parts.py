"""What plug-ins are given in these tests: objects in memory behind the server's own Protocols."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tiphys.api.table import Resource, resource_by_path
from tiphys.apiserver.admission.base import AdmissionParts
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation, Plugin
from tiphys.apiserver.admission.webhooks.interface import CallError
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Authorizer
from tiphys.apiserver.authz.rbac import KINDS, RBACAuthorizer
from tiphys.base.clock import Clock, FakeClock
from tiphys.machinery.meta import GroupVersionKind, GroupVersionResource

Object = dict[str, Any]
ALICE = UserInfo("alice", groups=("system:authenticated",))


class Objects:
    """Objects by group and resource: a Reader, and a StatusWriter that changes them."""

    def __init__(self, found: Mapping[tuple[str, str], Sequence[Object]] | None = None) -> None:
        self.found: dict[tuple[str, str], list[Object]] = {key: list(items) for key, items in (found or {}).items()}

    def add(self, group: str, resource: str, name: str, namespace: str = "", **rest: Any) -> Object:
        metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **rest.pop("metadata", {})}
        obj: Object = {"metadata": metadata, **rest}
        self.found.setdefault((group, resource), []).append(obj)
        return obj

    def get(self, group: str, resource: str, key: tuple[str, str]) -> Object | None:
        for obj in self.found.get((group, resource), ()):
            if (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) == tuple(key):
                return obj
        return None

    def list(self, group: str, resource: str, namespace: str = "") -> list[Object]:
        items = self.found.get((group, resource), [])
        return [obj for obj in items if not namespace or obj["metadata"].get("namespace") == namespace]

    async def create(self, group: str, version: str, plural: str, obj: Object) -> bool:
        self.add(group, plural, obj["metadata"]["name"], obj["metadata"].get("namespace", ""))
        return True

    async def change_status(
        self, group: str, plural: str, namespace: str, name: str, change: Callable[[Object], None]
    ) -> None:
        old = self.get(group, plural, (namespace, name))
        assert old is not None
        new = copy.deepcopy(old)
        change(new)
        items = self.found[group, plural]
        items[items.index(old)] = new


class Hooks:
    """Answers webhook calls from a table by URL, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Object], Object]] = {}
        self.asked: list[tuple[str, Object]] = []

    async def call(self, config: Mapping[str, Any], body: bytes, timeout: float) -> bytes:
        import orjson

        url = config["url"]
        review = orjson.loads(body)
        self.asked.append((url, review))
        if url not in self.answers:
            raise CallError(f'failed to call webhook: Post "{url}": connection refused')
        response = {"uid": review["request"]["uid"], **self.answers[url](review["request"])}
        return orjson.dumps({**review, "request": None, "response": response})


class OneVersion:
    """Everything is served in the version it is stored in, but for the ones named."""

    def __init__(self, *served: Resource) -> None:
        self._served = served

    def storage(self, group: str, plural: str) -> Resource | None:
        return next((one for one in self._served if (one.group, one.plural) == (group, plural)), None)

    def served(self, group: str, plural: str) -> Sequence[Resource]:
        return [one for one in self._served if (one.group, one.plural) == (group, plural)]

    def of_kind(self, group: str, version: str, kind: str) -> Resource | None:
        return resource_by_path(group, version, f"{kind.lower()}s")

    def convert(self, obj: Object, to: Resource) -> Object:
        return {**copy.deepcopy(obj), "apiVersion": to.api_version}

    def restore(self, obj: Object, given: Resource, wanted: str) -> Object:
        return obj


def roles(objects: Objects) -> RBACAuthorizer:
    """RBAC over the objects, always up to date."""
    counter = iter(range(1 << 30))
    return RBACAuthorizer(
        lambda plural: objects.list("rbac.authorization.k8s.io", plural), lambda: (next(counter),) * len(KINDS)
    )


class Allowing:
    """Allows what is in a set of (verb, resource, name)."""

    def __init__(self, *allowed: tuple[str, str, str]) -> None:
        self._allowed = allowed

    def authorize(self, attributes: Attributes) -> Any:
        from tiphys.apiserver.authz.interface import Decision, Verdict

        asked = (attributes.verb, attributes.resource, attributes.name)
        return Decision(Verdict.ALLOW if asked in self._allowed else Verdict.NO_OPINION)


def parts(
    objects: Objects,
    *,
    authorizer: Authorizer | None = None,
    hooks: Hooks | None = None,
    versions: Any = None,
    configuration: Mapping[str, Mapping[str, Any]] | None = None,
    monotonic: Callable[[], float] = float,
    clock: Clock | None = None,
) -> AdmissionParts:
    """The parts, over `objects`."""
    rules = roles(objects)
    return AdmissionParts(
        reader=objects,
        authorizer=authorizer or rules,
        rules=rules,
        statuses=objects,
        webhooks=hooks or Hooks(),
        versions=versions or OneVersion(),
        configuration=configuration or {},
        monotonic=monotonic,
        clock=clock or FakeClock(),
    )


def write(
    path: str,
    obj: Object | None,
    old: Object | None = None,
    *,
    operation: Operation | None = None,
    namespace: str = "default",
    subresource: str = "",
    user: UserInfo = ALICE,
    dry_run: bool = False,
    name: str = "",
) -> AdmissionAttributes:
    """A write of an object of the resource at `path` ("v1/pods", "apps/v1/deployments")."""
    *group, version, plural = path.split("/")
    resource = resource_by_path(group[0] if group else "", version, plural)
    assert resource is not None, path
    shown = obj if obj is not None else old
    return AdmissionAttributes(
        operation=operation or (Operation.CREATE if old is None else Operation.UPDATE),
        kind=GroupVersionKind(resource.group, version, resource.kind),
        resource=GroupVersionResource(resource.group, version, plural),
        subresource=subresource,
        namespace=namespace if resource.namespaced else "",
        name=name or (shown or {}).get("metadata", {}).get("name", ""),
        object=obj,
        old_object=old,
        user=user,
        dry_run=dry_run,
        options={},
    )


async def run(plugin: Plugin, attributes: AdmissionAttributes) -> AdmissionAttributes:
    """Both halves of a plug-in, if it looks at the write at all."""
    if plugin.handles(attributes):
        if attributes.object is not None or attributes.operation is Operation.DELETE:
            await plugin.admit(attributes)
        await plugin.validate(attributes)
    return attributes


def pod(name: str = "p", namespace: str = "default", **spec: Any) -> Object:
    """A pod of one container, unless `spec` says otherwise."""
    spec.setdefault("containers", [{"name": "c", "image": "i"}])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
