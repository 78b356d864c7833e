"""Content negotiation: which form of an answer an Accept header asks for.

Clauses are tried in the order of their q; the first that can be served wins:

    application/json                                            the object as it is
    application/json;as=Table;v=v1;g=meta.k8s.io                columns and rows (v1, v1beta1)
    application/json;as=PartialObjectMetadata[List];v=v1;…      metadata only (v1, v1beta1)
    application/yaml, application/vnd.kubernetes.protobuf       the same in other encodings; `*/*` is JSON

https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tiphys.machinery.errors import StatusError, not_acceptable, status_of

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
MEDIA_TYPES: Final = (JSON, YAML, PROTOBUF)

TABLE: Final = "Table"
PARTIAL: Final = "PartialObjectMetadata"
PARTIAL_LIST: Final = "PartialObjectMetadataList"
META_VERSIONS: Final = ("v1", "v1beta1")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The agreed form: encoding, transformation ("" none) with the meta version it is written in."""

    media_type: str = JSON
    transform: str = ""
    meta_version: str = "v1"
    pretty: bool = False

    @property
    def plain(self) -> bool:
        """The common case: JSON bytes as they are."""
        return self.media_type == JSON and not self.transform and not self.pretty


DEFAULT: Final = Wanted()


def unavailable(media_types: Sequence[str] = MEDIA_TYPES) -> StatusError:
    """406 for a media type nobody knows, in the words of upstream's HTTP layer."""
    listed = ", ".join(media_types)
    return StatusError(
        status_of(406, "NotAcceptable", f"406: Not Acceptable\n\nAvailable representations: {listed}")
        | {"details": {}, "code": 406}
    )


def require(accept: str, media_type: str) -> None:
    """For a document that exists in one form. StatusError (406) when an Accept header rules it out."""
    kinds = {media_type, "*/*", f"{media_type.partition('/')[0]}/*"}
    if accept and not any(media in kinds for _, media, _ in _clauses(accept)):
        raise unavailable([media_type])


@lru_cache(maxsize=512)
def negotiate(accept: str, *, tables: bool = True) -> Wanted:
    """The form an Accept header asks for. StatusError (406) when none of it can be served.

    Not everything has columns: without `tables` that clause is one nobody can serve.
    """
    if not accept:
        return DEFAULT
    clauses = sorted(_clauses(accept), key=lambda clause: -clause[0])
    if not any(media in ("*/*", *MEDIA_TYPES) for _, media, _ in clauses):
        raise unavailable()
    for _, media, parameters in clauses:
        if media not in ("*/*", *MEDIA_TYPES):
            continue
        transform = parameters.get("as", "")
        version = parameters.get("v", "v1")
        if transform:
            group = parameters.get("g", "")
            if (
                transform not in (TABLE, PARTIAL, PARTIAL_LIST)
                or group != "meta.k8s.io"
                or version not in META_VERSIONS
                or (transform == TABLE and not tables)
            ):
                continue
        elif media == "*/*" and len(clauses) > 1 and parameters:
            continue
        return Wanted(
            JSON if media == "*/*" else media,
            transform,
            version if transform else "v1",
            parameters.get("pretty", "") in ("1", "true"),
        )
    raise not_acceptable(f"only the following media types are accepted: {', '.join(MEDIA_TYPES)}")


def _clauses(accept: str) -> list[tuple[float, str, dict[str, str]]]:
    found: list[tuple[float, str, dict[str, str]]] = []
    for clause in accept.split(","):
        media, *given = (part.strip() for part in clause.split(";"))
        parameters = dict(item.split("=", 1) for item in given if "=" in item)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        if media:
            found.append((quality, media, parameters))
    return found


def pretty_by_default(user_agent: str, pretty: str) -> bool:
    """`?pretty=` decides; without it people at a browser or curl get indented JSON."""
    if pretty:
        return pretty not in ("0", "false")
    return user_agent.startswith(("curl", "Wget", "Mozilla/5.0"))
