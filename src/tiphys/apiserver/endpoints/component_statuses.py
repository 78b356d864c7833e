"""ComponentStatuses: whether the store, the scheduler and the controller manager work. Deprecated since v1.19.

The server stands in for the store. The two others may run anywhere, so they are judged by the Lease each of their
leaders renews, instead of by a request to this machine's loopback.
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/component-status-v1/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tiphys.api.table import Resource
from tiphys.apiserver.endpoints.context import ApiRequest
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.endpoints.forms import column_definitions, partial_metadata
from tiphys.apiserver.endpoints.negotiation import TABLE
from tiphys.apiserver.http.response import Answer
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.tables import columns_of
from tiphys.machinery.errors import bad_request, not_found
from tiphys.machinery.field import quote
from tiphys.machinery.meta import GroupResource, ObjectName
from tiphys.machinery.selectors import FieldSelector, LabelSelector
from tiphys.machinery.time import parse_rfc3339

STORE: Final = "etcd-0"
# Component → the Lease of its leader in kube-system.
LEADERS: Final = {"controller-manager": "kube-controller-manager", "scheduler": "kube-scheduler"}
WORDS: Final = {"True": "Healthy", "False": "Unhealthy"}


def component_statuses(api: ApiRequest, resource: Resource, now: datetime) -> Answer:
    """Answer a get or a list. StatusError (404) for an unknown component."""
    api.warnings.append("v1 ComponentStatus is deprecated in v1.19+")
    troubles = {name: _leader_trouble(api, lease, now) for name, lease in LEADERS.items()} | {STORE: ""}
    if api.info.verb == "get":
        if api.info.name not in troubles:
            raise not_found(GroupResource("", resource.singular), api.info.name)
        troubles = {api.info.name: troubles[api.info.name]}
    else:
        troubles = {name: trouble for name, trouble in troubles.items() if _selected(api, name)}
    found: list[Object] = [
        {"metadata": {"name": name}, "conditions": [_condition(trouble)]} for name, trouble in troubles.items()
    ]
    typed: list[Object] = [{"kind": resource.kind, "apiVersion": resource.api_version, **one} for one in found]
    # They are made when asked for: there is no revision they are of.
    metadata: Object = {}
    if api.wanted.transform == TABLE:
        return value_response(200, _table(typed, metadata, api.wanted.meta_version), api.wanted)
    if api.info.verb == "get":
        return value_response(200, typed[0], api.wanted)
    head = {"kind": resource.list_kind, "apiVersion": resource.api_version}
    return value_response(200, {**head, "metadata": metadata, "items": found}, api.wanted)


def _selected(api: ApiRequest, name: str) -> bool:
    """Whether the request's selectors let a component through. StatusError (400) for what does not parse."""
    try:
        labels = LabelSelector.parse(api.parameter("labelSelector"))
        fields = FieldSelector.parse(api.parameter("fieldSelector"))
    except ValueError as error:
        raise bad_request(str(error)) from None
    known = {"metadata.name": name, "metadata.namespace": ""}
    for requirement in fields.requirements:
        if requirement.field not in known:
            raise bad_request(
                f'{quote(requirement.field)} is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
    return labels.matches({}) and fields.matches(known)


def _leader_trouble(api: ApiRequest, name: str, now: datetime) -> str:
    """What is wrong with a component; "" when its leader renews its Lease."""
    lease = api.services.reader.get("coordination.k8s.io", "leases", ObjectName("kube-system", name))
    spec = (lease or {}).get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return f"nobody holds the lease kube-system/{name}"
    ended = parse_rfc3339(spec["renewTime"]) + timedelta(seconds=spec.get("leaseDurationSeconds") or 0)
    return "" if now < ended else f"the lease kube-system/{name} has not been renewed since {spec['renewTime']}"


def _condition(trouble: str) -> Object:
    return {"type": "Healthy", "status": "False" if trouble else "True", "message": trouble or "ok"}


def _table(items: Sequence[Object], metadata: Object, version: str) -> dict[str, Any]:
    rows = []
    for item in items:
        condition = item["conditions"][0]
        cells = [item["metadata"]["name"], WORDS[condition["status"]], condition["message"], ""]
        rows.append({"cells": cells, "object": partial_metadata(item, version)})
    return {
        "kind": TABLE,
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": column_definitions(columns_of("", "componentstatuses")),
        "rows": rows,
    }
