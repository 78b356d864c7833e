"""Pods: defaults, what may change after creation, graceful deletion.

https://kubernetes.io/docs/concepts/workloads/pods/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.core.pod_qos import qos_class
from tiphys.apiserver.registry.core.pod_table import pod_row
from tiphys.apiserver.registry.core.pod_update import (
    validate_ephemeral_update,
    validate_pod_status_update,
    validate_pod_update,
    validate_resize,
)
from tiphys.apiserver.registry.defaults.pod import default_pod
from tiphys.apiserver.registry.kinds import TableStrategy
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext
from tiphys.apiserver.registry.validation.pod import validate_pod_annotations, validate_pod_spec
from tiphys.apiserver.registry.validation.pod_warnings import annotation_warnings, name_warnings, pod_warnings
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path, quote
from tiphys.machinery.time import format_time

SPEC: Final = Path("spec")
HOSTNAME: Final = "the Pod's hostname"
GATED_MESSAGE: Final = "Scheduling is blocked due to non-empty scheduling gates"


class PodStrategy(TableStrategy):
    """Rules of pods."""

    template_part = "spec"
    pod_spec = ("spec",)
    defaults_spec_only = True

    def default(self, obj: Object) -> None:
        default_pod(obj)

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        spec = obj.get("spec") or {}
        _least_grace(spec)
        status: Object = {"phase": "Pending", "qosClass": qos_class(spec)}
        if spec.get("schedulingGates"):
            gated = {
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": None,
                "lastTransitionTime": format_time(ctx.now),
                "reason": "SchedulingGated",
                "message": GATED_MESSAGE,
            }
            status["conditions"] = [gated]
        obj["status"] = status

    def validate(self, obj: Object) -> list[FieldError]:
        errors = self._errors(obj)
        if (obj.get("spec") or {}).get("ephemeralContainers"):
            errors.append(field.forbidden(SPEC.child("ephemeralContainers"), "cannot be set on create"))
        return errors

    def validate_rest(self, obj: Object) -> tuple[list[FieldError], list[str]]:
        errors, warnings = claim_name_errors(obj), name_warnings(obj["metadata"], HOSTNAME)
        annotations = obj["metadata"].get("annotations")
        if annotations:
            errors += validate_pod_annotations(annotations, obj["spec"], Path("metadata").child("annotations"))
            warnings += annotation_warnings(annotations, Path("metadata"))
        return errors, warnings

    def _errors(self, obj: Object) -> list[FieldError]:
        spec = obj.get("spec") or {}
        annotations = obj["metadata"].get("annotations") or {}
        errors = validate_pod_annotations(annotations, spec, Path("metadata").child("annotations"))
        return errors + validate_pod_spec(spec, SPEC) + claim_name_errors(obj)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        _least_grace(new.get("spec") or {})
        gates = (new.get("spec") or {}).get("schedulingGates")
        if not gates and (old.get("spec") or {}).get("schedulingGates"):
            self._ungate(new)

    def _ungate(self, pod: Object) -> None:
        """Without gates the pod no longer says that it waits for them."""
        status = dict(pod.get("status") or {})
        kept = [one for one in status.get("conditions") or () if one.get("reason") != "SchedulingGated"]
        if kept:
            status["conditions"] = kept
        else:
            status.pop("conditions", None)
        pod["status"] = status

    def spec_changed(self, new: Object, old: Object) -> bool:
        """Being bound to a node is no change of what was asked for."""
        spec, known = dict(new.get("spec") or {}), old.get("spec") or {}
        if not known.get("nodeName"):
            spec.pop("nodeName", None)
        return spec != {key: value for key, value in known.items() if key != "nodeName" or value}

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self._errors(new) + validate_pod_update(new, old)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_status_update(ctx, new, old)
        metadata, known = new["metadata"], old["metadata"]
        # Only the deletion itself may set these; owners never change with the status.
        for name in ("deletionTimestamp", "ownerReferences"):
            if name in known:
                metadata[name] = known[name]
            else:
                metadata.pop(name, None)
        status = new.setdefault("status", {})
        if not status.get("qosClass"):
            status["qosClass"] = (old.get("status") or {}).get("qosClass") or qos_class(old.get("spec") or {})

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return validate_pod_status_update(new, old)

    def prepare_for_subresource_update(self, subresource: str, ctx: RequestContext, new: Object, old: Object) -> None:
        """Ephemeral containers and resources are the only parts of the spec that come from the request."""
        if subresource == "binding":
            return  # written by the server itself: the node, and that the pod has one
        asked = new.get("spec") or {}
        spec = dict(old.get("spec") or {})
        if subresource == "ephemeralcontainers":
            if asked.get("ephemeralContainers"):
                spec["ephemeralContainers"] = asked["ephemeralContainers"]
            else:
                spec.pop("ephemeralContainers", None)
        elif subresource == "resize":
            _take_resources(spec, asked)
        else:
            spec = asked
        new["spec"] = spec
        if "status" in old:
            new["status"] = old["status"]
        new["metadata"]["labels"] = old["metadata"].get("labels")
        new["metadata"]["annotations"] = old["metadata"].get("annotations")
        for name in ("labels", "annotations"):
            if new["metadata"][name] is None:
                del new["metadata"][name]

    def validate_subresource_update(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        if subresource == "ephemeralcontainers":
            return self._errors(new) + validate_ephemeral_update(new, old)
        if subresource == "resize":
            return self._errors(new) + validate_resize(new, old)
        if subresource == "binding":
            return []
        return self.validate_status_update(new, old)

    def check_graceful_deletion(self, ctx: RequestContext, obj: Object, grace_period_seconds: int | None) -> int | None:
        """A pod nobody runs any more goes at once; others get their own period or the one asked for."""
        spec = obj.get("spec") or {}
        period = grace_period_seconds
        if period is None:
            period = spec.get("terminationGracePeriodSeconds")
        if period is None:
            period = 0
        if period < 0:
            period = 1
        if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            period = 0
        return period

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        if old is not None and old.get("spec") == obj.get("spec"):
            return []
        found = name_warnings(obj["metadata"], HOSTNAME) if old is None else []
        return found + pod_warnings(obj.get("spec") or {}, obj.get("metadata") or {}, SPEC, Path("metadata"))

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        addresses = status.get("podIPs") or ()
        return super().selectable_fields(obj) | {
            "spec.nodeName": spec.get("nodeName") or "",
            "spec.restartPolicy": spec.get("restartPolicy") or "",
            "spec.schedulerName": spec.get("schedulerName") or "",
            "spec.serviceAccountName": spec.get("serviceAccountName") or "",
            "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
            "status.phase": status.get("phase") or "",
            "status.podIP": status.get("podIP") or (addresses[0].get("ip", "") if addresses else ""),
            "status.nominatedNodeName": status.get("nominatedNodeName") or "",
        }

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return pod_row(obj, now)


def claim_name_errors(pod: Object) -> list[FieldError]:
    """Claims made for ephemeral volumes are named after pod and volume; the name must do."""
    errors: list[FieldError] = []
    for index, volume in enumerate((pod.get("spec") or {}).get("volumes") or ()):
        name = volume.get("name") or ""
        if volume.get("ephemeral") is None or not name or not pod["metadata"].get("name"):
            continue
        claim = f"{pod['metadata']['name']}-{name}"
        where = SPEC.child("volumes").index(index).child("name")
        messages = formats.dns1123_subdomain(claim)
        errors += [field.invalid(where, name, f"PVC name {quote(claim)}: {message}") for message in messages]
    return errors


def _least_grace(spec: Object) -> None:
    """A negative grace period means the shortest there is."""
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        spec["terminationGracePeriodSeconds"] = 1


def _take_resources(spec: Object, asked: Object) -> None:
    """Resources and resize policies by container; the number and names of containers as asked, to be judged later."""
    for kind in ("containers", "initContainers"):
        if kind not in spec and kind not in asked:
            continue
        known = {one.get("name"): one for one in spec.get(kind) or ()}
        spec[kind] = [
            {**known[one.get("name")], **_resource_fields(one)} if one.get("name") in known else one
            for one in asked.get(kind) or ()
        ]
    if "resources" in asked:
        spec["resources"] = asked["resources"]
    else:
        spec.pop("resources", None)


def _resource_fields(container: Object) -> Object:
    fields: Object = {"resources": container.get("resources") or {}}
    if "resizePolicy" in container:
        fields["resizePolicy"] = container["resizePolicy"]
    return fields
