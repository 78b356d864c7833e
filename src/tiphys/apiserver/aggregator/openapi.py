"""The OpenAPI documents of an extension server, cut to the group and version it is registered for.

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from tiphys.apiserver.aggregator.apiservices import Registration
from tiphys.apiserver.aggregator.identity import OPENAPI_AGGREGATOR
from tiphys.apiserver.aggregator.transport import Transport, TransportError
from tiphys.apiserver.openapi.definitions import closure, references
from tiphys.apiserver.openapi.merging import ForeignPart

Object = dict[str, Any]
FETCH_TIMEOUT: Final = 30.0  # seconds; documents can be large


async def describe(transport: Transport, one: Registration, known: ForeignPart | None) -> ForeignPart:
    """Fetch the documents; `known` again when they say the same. Raises TransportError for a server that is gone."""
    accept = [("Accept", "application/json")]
    v2 = await transport.fetch(one, "/openapi/v2", OPENAPI_AGGREGATOR, headers=accept, timeout=FETCH_TIMEOUT)
    v3 = await transport.fetch(one, "/openapi/v3", OPENAPI_AGGREGATOR, headers=accept, timeout=FETCH_TIMEOUT)
    plain = (v2.body if v2.status == 200 else b"", v3.body if v3.status == 200 else b"")
    digest = hashlib.sha256(b"\0".join(plain)).hexdigest()
    if known is not None and known.digest == digest:
        return known
    try:
        return _described(one, orjson.loads(plain[0] or b"{}"), orjson.loads(plain[1] or b"{}"), digest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TransportError(f"the OpenAPI documents cannot be read: {error!r}") from None


def _described(one: Registration, v2: Object, v3: Object, digest: str) -> ForeignPart:
    paths, definitions = own_part(v2, one.path)
    place = one.path.removeprefix("/")
    entry = (v3.get("paths") or {}).get(place) or {}
    url = str(entry.get("serverRelativeURL") or "")
    return ForeignPart(place=place, paths=paths, definitions=definitions, url=url, digest=digest)


def own_part(document: Object, prefix: str) -> tuple[dict[str, Object], dict[str, Object]]:
    """(paths below `prefix`, the definitions they need, and those of the kinds there) of a v2 document."""
    shared = document.get("parameters") or {}
    paths = {
        path: _with_parameters(item, shared)
        for path, item in (document.get("paths") or {}).items()
        if path == prefix or path.startswith(f"{prefix}/")
    }
    return paths, closure(references(paths), document.get("definitions") or {})


def _with_parameters(item: Any, shared: Mapping[str, Object]) -> Any:
    """A path item with its references to shared parameters replaced by what they refer to."""
    if isinstance(item, dict):
        target = item.get("$ref")
        if isinstance(target, str) and target.startswith("#/parameters/"):
            return shared[target.rpartition("/")[2]]
        return {key: _with_parameters(value, shared) for key, value in item.items()}
    if isinstance(item, list):
        return [_with_parameters(one, shared) for one in item]
    return item
