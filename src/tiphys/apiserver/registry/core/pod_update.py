"""What may change in a pod that exists: little.

https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement and /#pod-subresources
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from tiphys.apiserver.registry.core.pod_qos import qos_class
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.internal import difference
from tiphys.apiserver.registry.validation.meta import IMMUTABLE
from tiphys.apiserver.registry.validation.pod import MIRROR_ANNOTATION
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
STATUS: Final = Path("status")
UPDATE_DETAIL: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
)
RESIZE_DETAIL: Final = "only cpu and memory resources are mutable"


def validate_pod_update(new: Object, old: Object) -> list[FieldError]:
    """Errors of an update of the pod itself; both specs are valid by themselves."""
    spec, known = new.get("spec") or {}, old.get("spec") or {}
    errors: list[FieldError] = []
    for kind, word in (("containers", "containers"), ("initContainers", "initContainers")):
        if len(spec.get(kind) or ()) != len(known.get(kind) or ()):
            detail = "pod updates may not add or remove containers"
            return [field.forbidden(SPEC.child(word), detail)]
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if not container.get("image"):
                errors.append(field.required(SPEC.child(kind).index(index).child("image"), ""))
    errors += _deadline_errors(spec, known)
    errors += _gate_errors(spec.get("schedulingGates") or (), known.get("schedulingGates") or ())
    errors += _toleration_errors(spec.get("tolerations") or (), known.get("tolerations") or ())
    return errors + _rest_errors(spec, known)


def _deadline_errors(spec: Json, known: Json) -> list[FieldError]:
    value, before = spec.get("activeDeadlineSeconds"), known.get("activeDeadlineSeconds")
    where = SPEC.child("activeDeadlineSeconds")
    if value is None:
        return (
            []
            if before is None
            else [field.invalid(where, None, "must not update from a positive integer to nil value")]
        )
    if before is not None and value > before:
        return [field.invalid(where, value, "must be less than or equal to previous value")]
    return []


def _gate_errors(gates: Sequence[Json], known: Sequence[Json]) -> list[FieldError]:
    names = {one.get("name") for one in known}
    where = SPEC.child("schedulingGates")
    detail = "only deletion is allowed, but found new scheduling gate"
    return [
        field.forbidden(where.index(index).child("name"), f"{detail} '{one.get('name') or ''}'")
        for index, one in enumerate(gates)
        if one.get("name") not in names
    ]


def _toleration_errors(tolerations: Sequence[Json], known: Sequence[Json]) -> list[FieldError]:
    """Existing tolerations stay; those that wait may change how long."""
    stripped = [{key: value for key, value in one.items() if key != "tolerationSeconds"} for one in tolerations]
    for one in known:
        if {key: value for key, value in one.items() if key != "tolerationSeconds"} not in stripped:
            detail = "existing toleration can not be modified except its tolerationSeconds"
            return [field.forbidden(SPEC.child("tolerations"), detail)]
    return []


def _rest_errors(spec: Json, known: Json) -> list[FieldError]:
    """Everything that may change put back to what it was: the rest must be equal then."""
    munged = deepcopy(dict(spec))
    for kind in ("containers", "initContainers"):
        for container, before in zip(munged.get(kind) or (), known.get(kind) or (), strict=True):
            container["image"] = before.get("image")
    _put_back(munged, known, "activeDeadlineSeconds")
    _put_back(munged, known, "tolerations")
    _put_back(munged, known, "schedulingGates")
    grace, before_grace = spec.get("terminationGracePeriodSeconds"), known.get("terminationGracePeriodSeconds")
    if before_grace is not None and before_grace < 0 and grace == 1:
        _put_back(munged, known, "terminationGracePeriodSeconds")
    if known.get("schedulingGates"):
        errors = _gated_errors(spec, known)
        _put_back(munged, known, "nodeSelector")
        if not errors:
            _put_back(munged, known, "affinity")
        if errors:
            return errors
    if munged == known:
        return []
    return [field.forbidden(SPEC, UPDATE_DETAIL + difference("PodSpec", known, munged))]


def _put_back(munged: Object, known: Json, name: str) -> None:
    if name in known:
        munged[name] = deepcopy(known[name])
    else:
        munged.pop(name, None)


def _gated_errors(spec: Json, known: Json) -> list[FieldError]:
    """While gated, a pod may become choosier about its node, not less."""
    errors: list[FieldError] = []
    selector, before = spec.get("nodeSelector") or {}, known.get("nodeSelector") or {}
    if any(selector.get(key) != value for key, value in before.items()):
        detail = "only additions are allowed (no mutations or deletions)"
        errors.append(field.invalid(SPEC.child("nodeSelector"), dict(selector), detail))
    affinity, old_affinity = spec.get("affinity") or {}, known.get("affinity") or {}
    if {**affinity, "nodeAffinity": None} != {**old_affinity, "nodeAffinity": None}:
        errors.append(field.invalid(SPEC.child("affinity"), dict(affinity), IMMUTABLE))
        return errors
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = ((affinity.get("nodeAffinity") or {}).get(required) or {}).get("nodeSelectorTerms") or []
    old_terms = ((old_affinity.get("nodeAffinity") or {}).get(required) or {}).get("nodeSelectorTerms") or []
    if old_terms and not _only_narrowed(terms, old_terms):
        where = SPEC.child("affinity", "nodeAffinity", required, "nodeSelectorTerms")
        detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        if len(terms) == len(old_terms):
            detail = "only additions are allowed (no mutations or deletions)"
        errors.append(field.invalid(where, list(terms), detail))
    return errors


def _only_narrowed(terms: Sequence[Json], known: Sequence[Json]) -> bool:
    if len(terms) != len(known):
        return False
    for term, before in zip(terms, known, strict=True):
        for kind in ("matchExpressions", "matchFields"):
            now = term.get(kind) or []
            if now[: len(before.get(kind) or [])] != (before.get(kind) or []):
                return False
    return True


def validate_pod_status_update(new: Object, old: Object) -> list[FieldError]:
    """Errors of a status update: container ids by name, no return from a final state, the node stays."""
    errors: list[FieldError] = []
    spec, known = new.get("spec") or {}, old.get("spec") or {}
    if spec.get("nodeName") != known.get("nodeName"):
        errors.append(field.forbidden(STATUS.child("nodeName"), "may not be changed directly"))
    nominated = (new.get("status") or {}).get("nominatedNodeName")
    if nominated is not None and nominated != (old.get("status") or {}).get("nominatedNodeName"):
        messages = formats.dns1123_subdomain(nominated) if nominated else ()
        where = STATUS.child("nominatedNodeName")
        errors += [field.invalid(where, nominated, message) for message in messages]
    if spec.get("restartPolicy") != "Always":
        errors += _restarted_errors(new, old, spec)
    status, before = new.get("status") or {}, old.get("status") or {}
    if status.get("qosClass") != before.get("qosClass"):
        errors.append(field.invalid(STATUS.child("qosClass"), status.get("qosClass"), IMMUTABLE))
    if status.get("podIPs") != before.get("podIPs"):
        errors += _address_errors([one.get("ip") or "" for one in status.get("podIPs") or ()])
    return errors


def _address_errors(addresses: Sequence[str]) -> list[FieldError]:
    where = STATUS.child("podIPs")
    return [
        field.invalid(where.index(index), address, message)
        for index, address in enumerate(addresses)
        for message in formats.ip_address(address)
    ]


def _restart_rules(spec: Json) -> list[Json]:
    owners = [one for kind in ("containers", "initContainers") for one in spec.get(kind) or ()]
    return [rule for one in owners for rule in one.get("restartPolicyRules") or ()]


def _restarted_errors(new: Object, old: Object, spec: Json) -> list[FieldError]:
    """A container that ended and is not to be restarted does not run again."""
    errors: list[FieldError] = []
    if any(rule.get("action") == "RestartAllContainers" for rule in _restart_rules(spec)):
        return errors  # the end of any of its containers may be the beginning of all
    sidecars = {one.get("name") for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"}
    ruled = {
        one.get("name")
        for kind in ("containers", "initContainers")
        for one in spec.get(kind) or ()
        if one.get("restartPolicy") or one.get("restartPolicyRules")
    }
    for kind in ("containerStatuses", "initContainerStatuses"):
        now = {one.get("name"): one for one in (new.get("status") or {}).get(kind) or ()}
        for before in (old.get("status") or {}).get(kind) or ():
            ended = (before.get("state") or {}).get("terminated")
            name = before.get("name")
            if ended is None or name not in now or name in sidecars or name in ruled:
                continue
            if spec.get("restartPolicy") == "OnFailure" and ended.get("exitCode"):
                continue
            if (now[name].get("state") or {}).get("terminated") is None:
                where = STATUS.child(kind).index(list(now).index(name)).child("state")
                errors.append(field.forbidden(where, "may not be transitioned to non-terminated state"))
    return errors


def validate_ephemeral_update(new: Object, old: Object) -> list[FieldError]:
    """Ephemeral containers are added, never changed or removed."""
    where = SPEC.child("ephemeralContainers")
    containers = {one.get("name"): one for one in (new.get("spec") or {}).get("ephemeralContainers") or ()}
    errors: list[FieldError] = []
    for before in (old.get("spec") or {}).get("ephemeralContainers") or ():
        name = before.get("name")
        now = containers.get(name)
        if now is None:
            errors.append(field.forbidden(where, f'existing ephemeral containers "{name}" may not be removed\n'))
        elif now != before:
            text = difference("EphemeralContainer", before, now)
            errors.append(field.forbidden(where, f'existing ephemeral containers "{name}" may not be changed\n{text}'))
    return errors


def validate_resize(new: Object, old: Object) -> list[FieldError]:
    """A resize changes cpu and memory of containers, and not the quality of service; some pods have none."""
    for refused, kind in ((_is_static(old), "static"), (_is_windows(old), "windows")):
        if refused:
            return [field.forbidden(Path("[]"), f"{kind} pods cannot be resized")]
    spec, known = new.get("spec") or {}, old.get("spec") or {}
    for kind in ("containers", "initContainers"):
        names = [one.get("name") for one in spec.get(kind) or ()]
        if names != [one.get("name") for one in known.get(kind) or ()]:
            return [field.forbidden(SPEC.child(kind), "containers may not be added or removed on resize")]
    errors = _removed_errors(spec, known)
    if errors:
        return errors
    before = qos_class(known)
    if before != qos_class(spec):
        detail = "Pod QOS Class may not change as a result of resizing"
        errors.append(field.invalid(SPEC, before, detail))
    if _without_compute(spec) != _without_compute(known):
        errors.append(field.forbidden(SPEC, RESIZE_DETAIL))
    return errors


def _is_static(pod: Object) -> bool:
    """A mirror of a pod that a kubelet was given by a file."""
    return MIRROR_ANNOTATION in ((pod.get("metadata") or {}).get("annotations") or {})


def _is_windows(pod: Object) -> bool:
    return (((pod.get("spec") or {}).get("os")) or {}).get("name") == "windows"


def _removed_errors(spec: Json, known: Json) -> list[FieldError]:
    errors: list[FieldError] = []
    for kind in ("containers", "initContainers"):
        for index, (now, before) in enumerate(zip(spec.get(kind) or (), known.get(kind) or (), strict=True)):
            for list_name in ("limits", "requests"):
                had = set((before.get("resources") or {}).get(list_name) or ())
                if had - set((now.get("resources") or {}).get(list_name) or ()):
                    where = SPEC.child(kind).index(index).child("resources").child(list_name)
                    errors.append(field.forbidden(where, f"resource {list_name} cannot be removed"))
    return errors


def _without_compute(spec: Json) -> Object:
    rest = deepcopy(dict(spec))
    owners = [one for kind in ("containers", "initContainers") for one in rest.get(kind) or ()]
    for owner in [*owners, rest]:
        for list_name in ("limits", "requests"):
            quantities = (owner.get("resources") or {}).get(list_name) or {}
            quantities.pop("cpu", None)
            quantities.pop("memory", None)
            if not quantities and owner.get("resources"):
                owner["resources"].pop(list_name, None)
        if not owner.get("resources"):
            owner.pop("resources", None)
    return rest
