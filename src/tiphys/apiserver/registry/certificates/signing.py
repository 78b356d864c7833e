"""CertificateSigningRequests, ClusterTrustBundles and PodCertificateRequests.

https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final

from cryptography import x509

from tiphys.apiserver.registry.kinds import StatusStrategy, TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, RequestContext, age
from tiphys.apiserver.registry.tables import NONE
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import format_time, human_duration

SPEC: Final = Path("spec")
CONDITIONS: Final = Path("status").child("conditions")
USAGES: Final = (
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
)
# Certificates live at least ten minutes.
MIN_SECONDS: Final = 600
APPROVAL: Final = ("Approved", "Denied")


class CertificateSigningRequestStrategy(StatusStrategy):
    """Who asks is written down by the server; what is asked never changes."""

    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT

    reset_fields: ClassVar[Mapping[str, Sequence[tuple[str, ...]]]] = {
        "": (("spec",), ("status",)),
        "status": (("spec",),),
        "approval": (("spec",), ("status", "certificate")),
    }

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        spec = obj.setdefault("spec", {})
        for name in ("username", "uid", "groups", "extra"):
            spec.pop(name, None)
        user = ctx.user
        spec["username"] = user.name
        if user.uid:
            spec["uid"] = user.uid
        if user.groups:
            spec["groups"] = list(user.groups)
        if user.extra:
            spec["extra"] = {key: list(values) for key, values in user.extra.items()}

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        new["spec"] = old.get("spec") or {}

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _request_errors(spec.get("request"))
        errors += _usage_errors(list(spec.get("usages") or ()))
        signer = spec.get("signerName") or ""
        errors += signer_errors(signer, SPEC.child("signerName"))
        seconds = spec.get("expirationSeconds")
        if seconds is not None and seconds < MIN_SECONDS:
            detail = "may not specify a duration less than 600 seconds (10 minutes)"
            errors.append(field.invalid(SPEC.child("expirationSeconds"), seconds, detail))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return []

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_status_update(ctx, new, old)
        _date_conditions(new, old, ctx)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = _condition_errors(new)
        for kind in APPROVAL:
            if _has(new, kind) and not _has(old, kind):
                errors.append(field.forbidden(CONDITIONS, f'updates may not add a condition of type "{kind}"'))
        errors += _removed_errors(new, old)
        return errors + _certificate_errors(new, old)

    def prepare_for_subresource_update(self, subresource: str, ctx: RequestContext, new: Object, old: Object) -> None:
        """approval: only conditions come from the request."""
        conditions = status_of(new).get("conditions")
        super().prepare_for_status_update(ctx, new, old)
        status = dict(status_of(old))
        if conditions:
            status["conditions"] = conditions
        else:
            status.pop("conditions", None)
        new["status"] = status
        _date_conditions(new, old, ctx)

    def validate_subresource_update(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        return _condition_errors(new) + _removed_errors(new, old)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"spec.signerName": spec_of(obj).get("signerName") or ""}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        seconds = spec.get("expirationSeconds")
        return [
            name_of(obj),
            age(obj, now),
            spec.get("signerName") or NONE,
            spec.get("username") or "",
            NONE if seconds is None else human_duration(timedelta(seconds=seconds)),
            _state(obj),
        ]


def _state(request: Object) -> str:
    states = [kind for kind in APPROVAL if _has(request, kind)]
    if not states:
        states = ["Pending"]
    if _has(request, "Failed"):
        states.append("Failed")
    if status_of(request).get("certificate"):
        states.append("Issued")
    return ",".join(states)


def _has(request: Object, kind: str) -> bool:
    return any(one.get("type") == kind for one in status_of(request).get("conditions") or ())


def _date_conditions(new: Object, old: Object, ctx: RequestContext) -> None:
    """When a condition was last touched and when it last turned."""
    known = {one.get("type"): one for one in status_of(old).get("conditions") or ()}
    now = format_time(ctx.now)
    for one in status_of(new).get("conditions") or ():
        before = known.get(one.get("type"))
        if not one.get("lastUpdateTime"):
            one["lastUpdateTime"] = now
        if not one.get("lastTransitionTime"):
            same = before is not None and before.get("status") == one.get("status")
            one["lastTransitionTime"] = before["lastTransitionTime"] if same and before else now


def _usage_errors(usages: list[str]) -> list[FieldError]:
    where = SPEC.child("usages")
    errors: list[FieldError] = []
    if not usages:
        errors.append(field.required(where, ""))
    for index, usage in enumerate(usages):
        if usage not in USAGES:
            errors.append(field.not_supported(where.index(index), usage, USAGES))
        if usage in usages[:index]:
            errors.append(field.duplicate(where.index(index), usage))
    return errors


def _request_errors(text: str | None) -> list[FieldError]:
    where = SPEC.child("request")
    try:
        request = base64.b64decode(text or "")
        x509.load_pem_x509_csr(request)
    except (ValueError, binascii.Error):
        detail = "PEM block type must be CERTIFICATE REQUEST"
        return [field.invalid(where, text, detail)]
    return []


def signer_errors(signer: str, path: Path) -> list[FieldError]:
    """`domain/path`, the domain of at least two labels."""
    if not signer:
        return [field.required(path, "")]
    domain, slash, rest = signer.partition("/")
    if not slash or "/" in rest:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        return [field.invalid(path, signer, detail)]
    errors = [
        field.invalid(path, domain, f"validating label {field.quote(label)}: {message}")
        for label in domain.split(".")
        for message in formats.dns1123_label(label)
    ]
    if "." not in domain:
        errors.append(field.invalid(path, domain, "should be a domain with at least two segments separated by dots"))
    return errors + [
        field.invalid(path, rest, f"validating label {field.quote(part)}: {message}")
        for part in rest.split(":")
        for message in formats.dns1123_subdomain(part)
    ]


def _condition_errors(request: Object) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    approved = ""
    for index, one in enumerate(status_of(request).get("conditions") or ()):
        where = CONDITIONS.index(index)
        kind, status = one.get("type") or "", one.get("status") or ""
        if not kind:
            errors.append(field.required(where.child("type"), ""))
        if kind in ("Approved", "Denied", "Failed"):
            if not status:
                errors.append(field.required(where.child("status"), ""))
            elif status != "True":
                errors.append(field.not_supported(where.child("status"), status, ["True"]))
        elif status not in ("False", "True", "Unknown"):
            if not status:
                errors.append(field.required(where.child("status"), ""))
            else:
                errors.append(field.not_supported(where.child("status"), status, ["False", "True", "Unknown"]))
        if kind in APPROVAL:
            if approved and approved != kind:
                detail = "Approved and Denied conditions are mutually exclusive"
                errors.append(field.invalid(CONDITIONS, kind, detail))
            approved = approved or kind
        if kind in seen:
            errors.append(field.duplicate(where.child("type"), kind))
        seen.add(kind)
    return errors


def _removed_errors(new: Object, old: Object) -> list[FieldError]:
    return [
        field.forbidden(CONDITIONS, f'updates may not remove a condition of type "{kind}"')
        for kind in ("Approved", "Denied", "Failed")
        if _has(old, kind) and not _has(new, kind)
    ]


def _certificate_errors(new: Object, old: Object) -> list[FieldError]:
    where = Path("status").child("certificate")
    now, before = status_of(new).get("certificate"), status_of(old).get("certificate")
    if before and now != before:
        return [field.forbidden(where, "updates may not set certificate content to a different value")]
    if not now or now == before:
        return []
    text = base64.b64decode(now)
    if b"-----BEGIN CERTIFICATE-----" not in text:
        return [field.invalid(where, "<certificate data>", "must contain at least one CERTIFICATE PEM block")]
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError as error:
        return [field.invalid(where, "<certificate data>", str(error))]
    return []


class ClusterTrustBundleStrategy(TableStrategy):
    """Trust anchors of a signer; the signer is part of the name."""

    name_rule: ClassVar[NameRule] = NameRule.ANY
    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        spec, name = spec_of(obj), name_of(obj)
        signer = spec.get("signerName") or ""
        where = Path("metadata").child("name")
        errors: list[FieldError] = []
        if not signer and ":" in name:
            errors.append(
                field.invalid(where, name, 'ClusterTrustBundle without signer name must not have ":" in its name')
            )
        prefix = signer.replace("/", ":") + ":"
        if signer and not name.startswith(prefix):
            detail = f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
            errors.append(field.invalid(where, name, detail))
        if signer:
            errors += signer_errors(signer, SPEC.child("signerName"))
        if not spec.get("trustBundle"):
            detail = "at least one trust anchor must be provided"
            errors.append(field.invalid(SPEC.child("trustBundle"), "<value omitted>", detail))
        return errors

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"spec.signerName": spec_of(obj).get("signerName") or ""}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), spec_of(obj).get("signerName") or NONE]


class PodCertificateRequestStrategy(StatusStrategy):
    """A pod's request for a certificate; never changes."""

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = spec_of(obj)
        own = {f"spec.{name}": spec.get(name) or "" for name in ("signerName", "podName", "nodeName")}
        return super().selectable_fields(obj) | own

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        states = [one.get("type") for one in status_of(obj).get("conditions") or () if one.get("status") == "True"]
        return [
            name_of(obj),
            spec.get("podName") or "",
            spec.get("serviceAccountName") or "",
            spec.get("nodeName") or "",
            spec.get("signerName") or "",
            str(states[-1]) if states else "Pending",
        ]
