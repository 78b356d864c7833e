"""Secrets. https://kubernetes.io/docs/concepts/configuration/secret/"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.core.configmaps import MAX_SIZE, immutability_errors
from tiphys.apiserver.registry.core.stored_bytes import decoded_size, key_errors
from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.go_json import json_error
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

DATA: Final = Path("data")
REDACTED: Final = "<secret contents redacted>"
ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"
# Keys that a Secret of a type must have.
REQUIRED_KEYS: Final = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
DOCKER_KEYS: Final = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}


class SecretStrategy(TableStrategy):
    """Types with a meaning must carry their keys; the type never changes."""

    def default(self, obj: Object) -> None:
        """`stringData` is written into `data`; both are bytes there."""
        if not obj.get("type"):
            obj["type"] = "Opaque"
        if plain := obj.pop("stringData", None):
            data = dict(obj.get("data") or {})
            for key, text in plain.items():
                data[key] = base64.b64encode(text.encode()).decode()
            obj["data"] = data

    def validate(self, obj: Object) -> list[FieldError]:
        data: dict[str, str] = obj.get("data") or {}
        errors: list[FieldError] = []
        for key in sorted(data):
            errors += key_errors(key, DATA.key(key))
        if sum(decoded_size(value or "") for value in data.values()) > MAX_SIZE:
            errors.append(field.too_long(DATA, "", MAX_SIZE))
        return errors + self._type_errors(obj, data)

    def _type_errors(self, obj: Object, data: dict[str, str]) -> list[FieldError]:
        kind = obj.get("type") or ""
        if kind == "kubernetes.io/service-account-token":
            annotations = obj["metadata"].get("annotations") or {}
            if not annotations.get(ACCOUNT_NAME):
                return [field.required(Path("metadata").child("annotations").key(ACCOUNT_NAME))]
        elif kind == "kubernetes.io/basic-auth":
            if "username" not in data and "password" not in data:
                return [field.required(DATA.key("username")), field.required(DATA.key("password"))]
        elif kind in DOCKER_KEYS:
            return self._docker_errors(DOCKER_KEYS[kind], data)
        required = REQUIRED_KEYS.get(kind, ())
        return [field.required(DATA.key(key)) for key in required if key not in data]

    def _docker_errors(self, key: str, data: dict[str, str]) -> list[FieldError]:
        if key not in data:
            return [field.required(DATA.key(key))]
        text = base64.b64decode(data[key] or "")
        try:
            json.loads(text)
        except ValueError:
            return [field.invalid(DATA.key(key), REDACTED, json_error(text))]
        return []

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """An empty type stays what it was."""
        if not new.get("type"):
            new["type"] = old.get("type")

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = validate_immutable(new.get("type"), old.get("type"), Path("type"))
        return errors + immutability_errors(new, old, ("data",)) + self.validate(new)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"type": obj.get("type") or ""}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), obj.get("type") or "", len(obj.get("data") or ()), age(obj, now)]
