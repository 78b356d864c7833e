"""Encryption: a configuration made to work. Which transformer a key of the store has, and what is sealed in with it.

    rule        resources [secrets, *.apps]     providers [aesgcm key2, aesgcm key1, identity]
    stored      k8s:enc:aesgcm:v1:key2:…        written, read
                k8s:enc:aesgcm:v1:key1:…        read, and stale
                {"kind":"Secret",…              read, and stale

The first rule that names a resource is its rule. What no rule names is stored as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.encryption.aes import AesCbc, AesGcm
from tiphys.apiserver.encryption.configuration import Key, KeyService, Provider, Rule
from tiphys.apiserver.encryption.counted import Counted
from tiphys.apiserver.encryption.identity import Identity
from tiphys.apiserver.encryption.kms.envelope import Envelope
from tiphys.apiserver.encryption.transformer import FirstWrites, Prefixed, Transformer
from tiphys.apiserver.encryption.validation import split_resource
from tiphys.apiserver.registry.upstream_keys import upstream_key
from tiphys.apiserver.watchcache import ROOT
from tiphys.machinery.field import quote
from tiphys.store import KeyValue

NO_PREFIX: Final = "no matching prefix found"
NOT_BUILT: Final = "error while building transformers: "
NO_V1: Final = (
    "KMSv1 is deprecated and will only receive security updates going forward. Use "
    "KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
)


def _secretbox(key: bytes) -> Transformer:
    # libsodium is loaded only by who uses it.
    from tiphys.apiserver.encryption.secretbox import Secretbox

    return Secretbox(key)


# Of each provider with keys: how its values begin, what makes a transformer of a key, and upstream's name for it.
WITH_KEYS: Final[Mapping[str, tuple[bytes, Callable[[bytes], Transformer], str]]] = {
    "aesgcm": (b"k8s:enc:aesgcm:v1:", AesGcm, "AES"),
    "aescbc": (b"k8s:enc:aescbc:v1:", AesCbc, "AES"),
    "secretbox": (b"k8s:enc:secretbox:v1:", _secretbox, "Secretbox"),
}


class Encryption:
    """The rules of a configuration over a store whose keys begin with `prefix` (--etcd-prefix)."""

    def __init__(self, rules: Sequence[Rule], prefix: str = ROOT) -> None:
        """Raises ConfigError for what cannot be: a key service of version 1, a rule no resource ever reaches."""
        check_masked(name for rule in rules for name in rule.resources)
        self.services: dict[str, Envelope] = {}
        self._prefix = "/" + prefix.strip("/") + "/"
        self._rules = [(rule.resources, self._transformer_of(rule.providers)) for rule in rules]
        self._known: dict[str, Transformer | None] = {}  # by "group/plural"

    def _transformer_of(self, providers: Iterable[Provider]) -> FirstWrites:
        return FirstWrites([self._prefixed(provider) for provider in providers], NO_PREFIX)

    def _prefixed(self, provider: Provider) -> Prefixed:
        if provider.kind == "identity":
            return Prefixed(b"", Identity())
        if provider.service is not None:
            return Prefixed(f"k8s:enc:kms:v2:{provider.service.name}:".encode(), self._service(provider.service))
        return with_keys(provider.kind, provider.keys)

    def _service(self, service: KeyService) -> Envelope:
        if service.version != "v2":
            raise ConfigError(NOT_BUILT + NO_V1)
        return self.services.setdefault(service.name, Envelope(service))

    def transformer(self, key: str) -> Transformer | None:
        """What seals and opens the value of a key; None: it is stored as it is."""
        group, slash, rest = key[len(ROOT) :].partition("/")
        resource = group + slash + rest.partition("/")[0]
        try:
            return self._known[resource]
        except KeyError:
            found = self._find(key)
            self._known[resource] = found
            return found

    def _find(self, key: str) -> Transformer | None:
        parts = key[len(ROOT) :].split("/", 2) if key.startswith(ROOT) else ()
        if len(parts) < 3:
            return None
        group, plural = "" if parts[0] == "core" else parts[0], parts[1]
        for names, transformer in self._rules:
            if any(covers(name, group, plural) for name in names):
                return Counted(transformer, f"{plural}.{group}" if group else plural)
        return None

    def context(self, key: str) -> bytes:
        """What is sealed in with the value of a key: the key, as upstream has it in etcd."""
        return (self._prefix + upstream_key(key)[len(ROOT) :]).encode()

    async def start(self) -> None:
        """Begin to look after the key services. Raises TransformError when one cannot be used."""
        await asyncio.gather(*(service.start() for service in self.services.values()))

    async def prepare(self, kvs: Iterable[KeyValue]) -> None:
        """Ask the key services for the keys that are needed to open these; without services there is nothing to do."""
        for service in self.services.values():
            await service.prepare(kv.value for kv in kvs)

    async def close(self) -> None:
        """Let go of the key services."""
        await asyncio.gather(*(service.close() for service in self.services.values()))


def with_keys(kind: str, keys: Sequence[Key]) -> Prefixed:
    """The transformer of a provider whose keys stand in the configuration."""
    prefix, make, name = WITH_KEYS[kind]
    choices = [Prefixed(f"{key.name}:".encode(), make(key.secret)) for key in keys]
    return Prefixed(prefix, FirstWrites(choices, f"no matching key was found for the provided {name} transformer"))


def check_masked(names: Iterable[str]) -> None:
    """Raises ConfigError when a name comes after a wildcard that covers it."""
    wildcards: list[str] = []
    for name in names:
        group, plural = split_resource(name)
        for wildcard in wildcards:
            if covers(wildcard, group, plural):
                raise ConfigError(f"{NOT_BUILT}resource {quote(name)} is masked by earlier rule {quote(wildcard)}")
        if plural == "*":
            wildcards.append(name)


def covers(name: str, group: str, plural: str) -> bool:
    """Whether a name of the configuration means a resource."""
    wanted_group, wanted = split_resource(name)
    if name == "*.*":
        return True
    return wanted_group == group and wanted in ("*", plural)
