"""ConfigMaps. https://kubernetes.io/docs/concepts/configuration/configmap/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.core.stored_bytes import decoded_size, key_errors
from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

# All values together, in bytes: what etcd takes with room for the rest.
MAX_SIZE: Final = 1024 * 1024
IMMUTABLE_DETAIL: Final = "field is immutable when `immutable` is set"


class ConfigMapStrategy(TableStrategy):
    """Keys are file names, in `data` or `binaryData` but not both; `immutable` cannot be taken back."""

    def validate(self, obj: Object) -> list[FieldError]:
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        errors: list[FieldError] = []
        for key in sorted(data):
            errors += key_errors(key, Path("data").key(key))
            if key in binary:
                errors.append(field.invalid(Path("data").key(key), key, "duplicate of key present in binaryData"))
        for key in sorted(binary):
            errors += key_errors(key, Path("binaryData").key(key))
        size = sum(len(value.encode()) for value in data.values())
        if size + sum(decoded_size(value) for value in binary.values()) > MAX_SIZE:
            errors.append(field.too_long(Path("[]"), "", MAX_SIZE))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return immutability_errors(new, old, ("data", "binaryData")) + self.validate(new)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj, now)]


def immutability_errors(new: Object, old: Object, names: Sequence[str]) -> list[FieldError]:
    """Errors of changing an object that was declared immutable."""
    if not old.get("immutable"):
        return []
    errors: list[FieldError] = []
    if not new.get("immutable"):
        errors.append(field.forbidden(Path("immutable"), IMMUTABLE_DETAIL))
    errors.extend(
        field.forbidden(Path(name), IMMUTABLE_DETAIL)
        for name in names
        if (new.get(name) or {}) != (old.get(name) or {})
    )
    return errors
