"""POSTs that do something to a pod: binding and eviction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tiphys.api.schemas import schema_of
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.body import BodyDecoder, check_write_options, media_type_of
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.options import DeleteOptions, Preconditions
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.store import ResourceStore
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.machinery import field
from tiphys.machinery.errors import (
    StatusError,
    bad_request,
    conflict,
    internal_error,
    plain_error,
    status_of,
    too_many_requests,
)
from tiphys.machinery.field import Path
from tiphys.machinery.meta import GroupResource, GroupVersionKind
from tiphys.machinery.selectors import LabelSelector
from tiphys.machinery.time import format_time

BINDING: Final = GroupVersionKind("", "v1", "Binding")
EVICTION: Final = GroupVersionKind("policy", "v1", "Eviction")
BINDING_RESOURCE: Final = GroupResource("", "pods/binding")
CREATED: Final = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
# A budget that has not been counted yet, or is busy, is asked again after this many seconds.
RETRY_AFTER: Final = 10
# Disrupted pods the disruption controller has not seen yet; more than this and it must be behind.
MAX_DISRUPTED: Final = 2000


def _decode(api: ApiRequest, kind: GroupVersionKind) -> Object:
    check_write_options(api.query, "CreateOptions")
    schema = schema_of(kind.group, kind.version, kind.kind)
    decoder = BodyDecoder(kind, schema, api.parameter("fieldValidation"), api.warnings)
    return decoder.decode(api.request.body, media_type_of(api.request.headers.get("content-type", "")))


# --- binding --------------------------------------------------------------------------------------
async def bind_pod(api: ApiRequest, served: ServedResource) -> Response:
    """POST pods/NAME/binding, and bindings: give an unassigned pod its node, once."""
    binding = _decode(api, BINDING)
    metadata = binding.get("metadata") or {}
    _check_namespace(api, metadata)
    name = api.info.name or metadata.get("name", "")
    if api.info.name and metadata.get("name", "") != api.info.name:
        raise bad_request("name in URL does not match name in Binding object")
    target = binding.get("target") or {}
    _check_target(target)
    if not name:
        raise bad_request("Name parameter required.")
    if not api.info.name:  # who binds by the collection means whatever has the name
        metadata = {key: value for key, value in metadata.items() if key != "uid"}
    ctx = api.context(name=name, subresource="binding")
    admission = RequestAdmission(
        api, served, Operation.CREATE, {"kind": "CreateOptions"}, subresource="binding", kind=BINDING
    )
    await admission.mutate(binding, None)
    await admission.validate(binding, None)

    async def make(old: Object | None, revision: int) -> Object:
        assert old is not None
        _check_bindable(ctx, served.store, old, metadata, revision)
        _assign(api, old, binding, target)
        old["metadata"].pop("resourceVersion", None)
        return old  # a copy that is ours

    await served.store.update(ctx, make, _Unasked(), patching=True)
    return value_response(201, CREATED, api.wanted)


def _check_namespace(api: ApiRequest, metadata: Object) -> None:
    if metadata.get("namespace") not in (None, "", api.info.namespace):
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def _check_target(target: Object) -> None:
    errors = []
    if target.get("kind") not in (None, "", "Node"):
        errors.append(field.not_supported(Path("target").child("kind"), target["kind"], ["Node", "<empty>"]))
    if not target.get("name"):
        errors.append(field.required(Path("target").child("name")))
    if errors:
        raise StatusError(status_of(500, "", ", ".join(map(str, errors))))


def _check_bindable(ctx: RequestContext, store: ResourceStore, pod: Object, wanted: Object, revision: int) -> None:
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    name = metadata["name"]
    uid, version = wanted.get("uid"), wanted.get("resourceVersion")
    if uid and uid != metadata["uid"]:
        raise store.precondition_conflict(ctx, "UID", uid, metadata["uid"])
    if version and version != str(revision):
        raise store.precondition_conflict(ctx, "ResourceVersion", version, str(revision))
    if metadata.get("deletionTimestamp"):
        raise conflict(BINDING_RESOURCE, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        raise conflict(BINDING_RESOURCE, name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
    if spec.get("schedulingGates"):
        raise conflict(BINDING_RESOURCE, name, f"pod {name} has non-empty .spec.schedulingGates")


def _assign(api: ApiRequest, pod: Object, binding: Object, target: Object) -> None:
    given = binding.get("metadata") or {}
    pod["spec"]["nodeName"] = target["name"]
    if given.get("annotations"):
        pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **given["annotations"]}
    if given.get("labels"):
        pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), **given["labels"]}
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None}
    status = pod.setdefault("status", {})
    status.pop("nominatedNodeName", None)  # what was expected has come
    conditions = status.setdefault("conditions", [])
    known = next((one for one in conditions if one.get("type") == "PodScheduled"), None)
    if known is not None and known.get("status") == "True":
        return
    condition["lastTransitionTime"] = format_time(api.services.now())
    if known is not None:
        conditions[conditions.index(known)] = condition
    else:
        conditions.append(condition)


class _Unasked:
    """The binding itself was admitted; the pod's change is not asked about again."""

    async def validate(self, new: Object | None, old: Object | None) -> None:
        """Nothing to ask."""


# --- eviction -------------------------------------------------------------------------------------
async def evict_pod(api: ApiRequest, served: ServedResource) -> Response:
    """POST pods/NAME/eviction: delete a pod if its disruption budget allows. StatusError (429) when it does not.

    https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
    """
    eviction = _decode(api, EVICTION)
    metadata = eviction.get("metadata") or {}
    if metadata.get("name", "") != api.info.name:
        raise bad_request("name in URL does not match name in Eviction object")
    _check_namespace(api, metadata)
    raw = eviction.get("deleteOptions") or {}
    asked, given = api.query.get("dryRun") or [], raw.get("dryRun") or []
    if asked and given and asked != given:
        shown = " and ".join(f"[{' '.join(one)}]" for one in (asked, given))
        raise plain_error(f"Non-matching dry-run options in request and content: {shown}")
    if asked:
        raw["dryRun"] = asked
    options = DeleteOptions.parse(raw)
    store = served.store
    pod = store.decode(store.get(api.info.namespace, api.info.name))
    admission = RequestAdmission(
        api, served, Operation.CREATE, {"kind": "CreateOptions"}, subresource="eviction", kind=EVICTION
    )
    await admission.mutate(eviction, None)
    await admission.validate(eviction, None)
    ctx = api.context(subresource="")
    ctx.dry_run = options.dry_run or ctx.dry_run
    if not _budget_does_not_matter(pod):
        version = await _take_from_budget(api, ctx, pod)
        if version and options.preconditions is None:
            # The judgement was about this very version of the pod.
            options.preconditions = Preconditions(uid=pod["metadata"]["uid"])
    if options.preconditions is not None:
        options.preconditions.check(store.group_resource, store.group_kind, pod["metadata"], 0)
    await _mark_disrupted(api, store, ctx)
    deletion = RequestAdmission(api, served, Operation.DELETE, {"kind": "DeleteOptions", **options.raw}, subresource="")
    await store.delete(ctx, options, deletion)
    return value_response(201, CREATED, api.wanted)


async def _mark_disrupted(api: ApiRequest, store: ResourceStore, ctx: RequestContext) -> None:
    """Say in the pod's status why it goes, for controllers that count failures."""
    condition: Object = {"type": "DisruptionTarget", "status": "True", **EVICTED}

    async def make(old: Object | None, revision: int) -> Object:
        assert old is not None
        old["metadata"].pop("resourceVersion", None)
        conditions = old.setdefault("status", {}).setdefault("conditions", [])
        known = next((one for one in conditions if one.get("type") == condition["type"]), None)
        if known is None or any(known.get(key) != value for key, value in condition.items()):
            stamped = {**condition, "lastProbeTime": None, "lastTransitionTime": format_time(ctx.now)}
            old["status"]["conditions"] = [one for one in conditions if one is not known] + [stamped]
        return old

    status = api.context(subresource="status")
    status.dry_run = ctx.dry_run
    await store.update(status, make, _Unasked(), patching=True)


EVICTED: Final = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}


def _budget_does_not_matter(pod: Object) -> bool:
    """Pods that are not serving anybody may always go."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))


def _is_ready(pod: Object) -> bool:
    conditions: Sequence[Any] = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


async def _take_from_budget(api: ApiRequest, ctx: RequestContext, pod: Object) -> bool:
    """Count the disruption against the pod's budget; True when there is one."""
    budgets = api.services.resources.store("policy", "poddisruptionbudgets")
    if budgets is None:
        return False
    matching = [
        budget for budget in ctx.reader.list("policy", "poddisruptionbudgets", ctx.namespace) if _covers(budget, pod)
    ]
    if not matching:
        return False
    if len(matching) > 1:
        raise internal_error(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    name = matching[0]["metadata"]["name"]

    async def make(old: Object | None, revision: int) -> Object:
        assert old is not None
        _check_budget(old, pod)
        new = budgets.decode(budgets.get(ctx.namespace, name))
        if not _unhealthy_may_go(old, pod):
            status = new["status"]
            status["disruptionsAllowed"] -= 1
            status.setdefault("disruptedPods", {})[pod["metadata"]["name"]] = format_time(ctx.now)
        new["metadata"].pop("resourceVersion", None)
        return new

    budget_ctx = api.context(name=name, subresource="status")
    budget_ctx.dry_run = ctx.dry_run
    await _update_budget(budgets, budget_ctx, make)
    return True


async def _update_budget(budgets: ResourceStore, ctx: RequestContext, make: Any) -> None:
    await budgets.update(ctx, make, _Unasked(), patching=True)


def _covers(budget: Object, pod: Object) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    if selector is None:
        return False
    return LabelSelector.of_dict(selector).matches(pod["metadata"].get("labels") or {})


def _unhealthy_may_go(budget: Object, pod: Object) -> bool:
    """An unready pod does not count against a budget that is met (IfHealthyBudget), or never (AlwaysAllow)."""
    if _is_ready(pod):
        return False
    spec, status = budget.get("spec") or {}, budget.get("status") or {}
    if spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    return bool(
        status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) and status.get("desiredHealthy", 0) > 0
    )


def _check_budget(budget: Object, pod: Object) -> None:
    if _unhealthy_may_go(budget, pod):
        return
    metadata, status = budget["metadata"], budget.get("status") or {}
    name = metadata["name"]
    if (status.get("observedGeneration") or 0) < metadata.get("generation", 0):
        raise _too_many(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            f"The disruption budget {name} is still being processed by the server.",
            RETRY_AFTER,
        )
    allowed = status.get("disruptionsAllowed", 0)
    if allowed < 0:
        raise StatusError(status_of(403, "Forbidden", "pdb disruptions allowed is negative"))
    if len(status.get("disruptedPods") or ()) > MAX_DISRUPTED:
        raise StatusError(
            status_of(
                403, "Forbidden", "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
            )
        )
    if allowed == 0:
        healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
        raise _too_many(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently",
            0,
        )


def _too_many(message: str, cause: str, retry_after: int) -> StatusError:
    error = too_many_requests(message, retry_after)
    details = error.status.setdefault("details", {})
    details["causes"] = [{"reason": "DisruptionBudget", "message": cause}]
    return error
