"""What an EncryptionConfiguration may say, in upstream's words. Keys never appear in a message."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path, quote
from tiphys.machinery.time import parse_duration_ns

Object = Mapping[str, Any]
# The lengths of keys, in bytes.
KEY_SIZES: Final = {"aesgcm": (16, 24, 32), "aescbc": (16, 24, 32), "secretbox": (32,)}
# As upstream shows a provider: by the names of its fields.
SHOWN: Final = {"aesgcm": "AESGCM", "aescbc": "AESCBC", "secretbox": "Secretbox", "identity": "Identity", "kms": "KMS"}
WITHOUT_API: Final = ("serviceipallocations", "servicenodeportallocations", "apiserveripinfo")
NO_PROVIDER: Final = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
TWO_PROVIDERS: Final = "more than one provider specified in a single element, should split into different list elements"
MASKED: Final = (
    "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be "
    "masked"
)
EVENTS: Final = "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in "
ALL_GROUPS: Final = "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"


def split_resource(name: str) -> tuple[str, str]:
    """(group, resource) of a name as configurations have it: `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`."""
    resource, _, group = name.partition(".")
    return group, resource


def validate(found: Object) -> list[FieldError]:
    """Everything that is wrong with a configuration whose types are right."""
    root = Path("resources")
    items = found.get("resources") or []
    if not items:
        return [field.required(root, "at least one resources is required")]
    errors: list[FieldError] = []
    services: set[str] = set()
    for index, one in enumerate(items):
        at = root.index(index)
        names, providers = one.get("resources") or [], one.get("providers") or []
        for what, there in (("resources", names), ("providers", providers)):
            if not there:
                errors.append(field.required(at.child(what), f"at least one {at.child(what)} is required"))
        errors += _names(names, at.child("resources"))
        for number, provider in enumerate(providers):
            errors += _provider(provider, at.child("providers").index(number), services)
    return errors


def _names(names: Sequence[str], at: Path) -> Iterator[FieldError]:
    for index, name in enumerate(names):
        problem = _name_problem(name)
        if problem:
            yield field.invalid(at.index(index), name, problem)
    if len(set(names)) < len(names):
        yield field.invalid(at, list(names), "the same resource cannot be specified multiple times")
    if _overlap(names):
        yield field.invalid(at, list(names), MASKED)


def _name_problem(name: str) -> str:
    group, resource = split_resource(name)
    if name == "*":
        return ALL_GROUPS
    if group == "extensions":
        return "'extensions' group has been removed and cannot be used for encryption"
    if name.lower() != name:
        return "resource name should not contain capital letters"
    if group == "events.k8s.io":
        return f"{EVENTS}the config file"
    if name in WITHOUT_API:
        return "resources which do not have REST API/s cannot be encrypted"
    if group == "*" and resource != "*":
        return "encrypting the same resource across groups is not supported"
    return ""


def _overlap(names: Sequence[str]) -> bool:
    """Whether one of the names covers another."""
    if "*.*" in names and len(names) > 1:
        return True
    whole = [split_resource(name)[0] for name in names if name.startswith("*.") and name != "*.*"]
    return any(sum(split_resource(name)[0] == group for name in names) > 1 for group in whole)


def _provider(provider: Object, at: Path, services: set[str]) -> Iterator[FieldError]:
    there = [kind for kind, content in provider.items() if content is not None]
    if len(there) != 1:
        shown: dict[str, Any] = {text: {} if kind in there else None for kind, text in SHOWN.items()}
        yield field.invalid(at, shown, TWO_PROVIDERS if there else NO_PROVIDER)
    elif there[0] == "kms":
        yield from _service(provider["kms"], at.child("kms"), services)
    elif there[0] != "identity":
        yield from _keys(provider[there[0]].get("keys") or [], at.child(there[0], "keys"), KEY_SIZES[there[0]])


def _keys(keys: Sequence[Object], at: Path, sizes: Sequence[int]) -> Iterator[FieldError]:
    if not keys:
        yield field.required(at, "at least one keys is required")
    for index, key in enumerate(keys):
        if not key.get("name"):
            yield field.required(at.index(index).child("name"), "name is a mandatory field for a key")
        secret = at.index(index).child("secret")
        if not key.get("secret"):
            yield field.required(secret, "secret is a mandatory field for a key")
            continue
        try:
            size = len(base64.b64decode(key["secret"], validate=True))
        except binascii.Error:
            yield field.invalid(secret, "REDACTED", "secrets must be base64 encoded")
            continue
        if size not in sizes:
            wanted = "[" + " ".join(map(str, sizes)) + "]"
            message = f"secret is not of the expected length, got {size}, expected one of {wanted}"
            yield field.invalid(secret, "REDACTED", message)


def _service(service: Object, at: Path, services: set[str]) -> Iterator[FieldError]:
    name, version, endpoint = (service.get(key) or "" for key in ("name", "apiVersion", "endpoint"))
    if not name:
        yield field.required(at.child("name"), "name is a mandatory field for a provider")
    elif version == "v2" and ":" in name:
        yield field.invalid(at.child("name"), name, f"invalid KMS provider name {name}, must not contain ':'")
    elif name in services:
        yield field.invalid(at.child("name"), name, f"duplicate KMS provider name {name}, names must be unique")
    services.add(name)
    if "timeout" in service and parse_duration_ns(service["timeout"]) <= 0:
        yield field.invalid(at.child("timeout"), service["timeout"], "timeout should be a positive value")
    yield from _endpoint(endpoint, at.child("endpoint"))
    if version == "v2" and service.get("cachesize"):
        yield field.invalid(at.child("cachesize"), service["cachesize"], "cachesize is not supported in v2")
    if version not in ("", "v1", "v2"):
        message = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"
        yield field.invalid(at.child("apiVersion"), version, message)


def _endpoint(endpoint: str, at: Path) -> Iterator[FieldError]:
    if not endpoint:
        yield field.invalid(at, endpoint, "endpoint is a mandatory field for a kms")
        return
    escape = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", endpoint)
    if escape:
        why = f"parse {quote(endpoint)}: invalid URL escape {quote(escape[0])}"
        yield field.invalid(at, endpoint, f"invalid endpoint for kms provider, error: {why}")
        return
    scheme = urlsplit(endpoint).scheme
    if scheme != "unix":
        message = f"unsupported scheme {quote(scheme)} for KMS provider, only unix is supported"
        yield field.invalid(at, endpoint, message)
