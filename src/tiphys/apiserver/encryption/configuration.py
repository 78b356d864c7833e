"""EncryptionConfiguration: which resources are sealed, and how; the rules for what it may say are `validation`'s.

https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/#apiserver-config-k8s-io-v1-EncryptionConfiguration
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.configfile import ConfigError, check_kind, document, joined, read, strict_error, unknown_fields
from tiphys.apiserver.encryption.validation import validate
from tiphys.machinery.codec import decode_yaml
from tiphys.machinery.field import quote
from tiphys.machinery.time import parse_duration

Object = Mapping[str, Any]
KIND: Final = "EncryptionConfiguration"
VERSIONS: Final = ("apiserver.config.k8s.io/v1",)
OLD_NAME: Final = ("v1", "EncryptionConfig")  # what upstream called it before 1.13, and still takes
SCHEME: Final = "k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go"
_KEYS: Final = {"keys": [{"name": None, "secret": None}]}
SHAPE: Final = {
    **dict.fromkeys(("apiVersion", "kind")),
    "resources": [
        {
            "resources": None,
            "providers": [
                {
                    **dict.fromkeys(("aesgcm", "aescbc", "secretbox"), _KEYS),
                    "identity": {},
                    "kms": dict.fromkeys(("apiVersion", "name", "cachesize", "endpoint", "timeout")),
                }
            ],
        }
    ],
}
DEFAULT_TIMEOUT: Final = timedelta(seconds=3)  # of a call to a key service


@dataclass(frozen=True, slots=True)
class Key:
    """A key that stands in the configuration."""

    name: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class KeyService:
    """A KMS plug-in: a gRPC service of the version `version` at a unix socket."""

    name: str
    version: str
    endpoint: str
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: its kind (aesgcm, aescbc, secretbox, identity, kms) and what that needs."""

    kind: str
    keys: tuple[Key, ...] = ()
    service: KeyService | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """How the resources named by `resources` are sealed: by the first provider; all of them read."""

    resources: tuple[str, ...]
    providers: tuple[Provider, ...]


def load(path: Path) -> bytes:
    """What the file says. Raises ConfigError, worded as upstream's."""
    try:
        data = read(path)
    except ConfigError as error:
        why = f"error opening encryption provider configuration file {quote(str(path))}: {error}"
        raise ConfigError(f"error while parsing file: error while loading file: {why}") from None
    if not data:
        message = f"encryption provider configuration file {quote(str(path))} is empty"
        raise ConfigError(f"error while parsing file: error while loading file: {message}")
    return data


def parse(data: bytes, path: Path) -> tuple[Rule, ...]:
    """The rules of a file's bytes, in order. Raises ConfigError, worded as upstream's."""
    try:
        duplicates = decode_yaml(data).duplicates
        if duplicates:
            lines = "".join(f"\n  {duplicate}" for duplicate in duplicates)
            raise ConfigError(f"strict decoding error: yaml: unmarshal errors:{lines}")
        found = document(data)
        if (found.get("apiVersion"), found.get("kind")) != OLD_NAME:
            check_kind(found, KIND, VERSIONS, SCHEME)
        problem = strict_error(unknown_fields(found, SHAPE))
        if problem:
            raise ConfigError(problem)
        _check_types(found)
    except ValueError as error:
        file = quote(str(path))
        why = f"error decoding encryption provider configuration file {file}: {error}"
        raise ConfigError(f"error while parsing file: {why}") from None
    errors = validate(found)
    if errors:
        raise ConfigError(f"error while parsing file: {joined(errors)}")
    return tuple(map(_rule, found["resources"]))


def _check_types(found: Object) -> None:
    """What is a list or an object where the shape says so, and text elsewhere. Raises ConfigError."""
    for one in _list(found, "resources"):
        for name in _list(_object(one, "resources"), "resources"):
            if not isinstance(name, str):
                raise ConfigError("resources.resources: a name of a resource is text")
        for provider in _list(one, "providers"):
            for kind, content in _object(provider, "providers").items():
                fields = {} if content is None else _object(content, kind)
                for key in _list(fields, "keys"):
                    _check_texts(_object(key, "keys"), ("name", "secret"))
                if kind == "kms":
                    _check_service(fields)


def _check_service(fields: Object) -> None:
    _check_texts(fields, ("apiVersion", "name", "endpoint", "timeout"))
    if not isinstance(fields.get("cachesize", 0), int):
        raise ConfigError("cachesize: a number")
    if "timeout" in fields:
        try:
            parse_duration(fields["timeout"])
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _check_texts(found: Object, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(found.get(name, ""), str):
            raise ConfigError(f"{name}: text")


def _list(found: Object, name: str) -> list[Any]:
    value = found.get(name)
    if not isinstance(value, list) and value is not None:
        raise ConfigError(f"{name}: a list")
    return value or []


def _object(value: Any, name: str) -> Object:
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: an object")
    return value


def _rule(one: Object) -> Rule:
    return Rule(tuple(one["resources"]), tuple(map(_provider, one["providers"])))


def _provider(one: Object) -> Provider:
    kind, content = next((kind, content) for kind, content in one.items() if content is not None)
    keys = tuple(Key(key["name"], base64.b64decode(key["secret"])) for key in content.get("keys") or ())
    if kind != "kms":
        return Provider(kind, keys)
    timeout = parse_duration(content["timeout"]) if "timeout" in content else DEFAULT_TIMEOUT
    service = KeyService(content["name"], content.get("apiVersion") or "v1", content["endpoint"], timeout)
    return Provider(kind, service=service)
