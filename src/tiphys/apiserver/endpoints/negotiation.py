"""Content negotiation: which form of an answer an Accept header asks for.

    application/json                                            the object as it is
    application/json;as=Table;v=v1;g=meta.k8s.io                columns and rows (v1, v1beta1)
    application/json;as=PartialObjectMetadata[List];v=v1;…      metadata only (v1, v1beta1)
    application/yaml, application/vnd.kubernetes.protobuf       the same in other encodings

Two judges, as upstream: `check_offered`, for paths that list what they answer with, only looks at media types;
`negotiate` tries the clauses, wildcards last and else in the order of their q: the first that can be served wins.
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
DISCOVERY: Final = "APIGroupDiscoveryList"
META_VERSIONS: Final = ("v1", "v1beta1")
TRANSFORMS: Final = frozenset({TABLE, PARTIAL, PARTIAL_LIST})
NO_COLUMNS: Final = frozenset({PARTIAL, PARTIAL_LIST})
AS_IT_IS: Final[frozenset[str]] = frozenset()

STREAM: Final = "watch"
STREAM_TYPES: Final = (f"{JSON};stream=watch", f"{PROTOBUF};stream=watch")


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
        return self.plain_encoding and not self.transform

    @property
    def plain_encoding(self) -> bool:
        """JSON without white space."""
        return self.media_type == JSON and not self.pretty


DEFAULT: Final = Wanted()


def unavailable(media_types: Sequence[str] = MEDIA_TYPES) -> StatusError:
    """406 for a media type nobody knows, in the words of upstream's HTTP layer."""
    listed = ", ".join(media_types)
    return StatusError(
        status_of(406, "NotAcceptable", f"406: Not Acceptable\n\nAvailable representations: {listed}")
        | {"details": {}, "code": 406}
    )


def no_form(media_types: Sequence[str] = MEDIA_TYPES) -> StatusError:
    """406 when no clause can be served."""
    return not_acceptable(f"only the following media types are accepted: {', '.join(media_types)}")


def check_offered(accept: str, offered: Sequence[str] = MEDIA_TYPES) -> None:
    """StatusError (406) when an Accept header has none of the media types that a path lists."""
    if accept.strip() and not _has_one(accept, tuple(offered)):
        raise unavailable(offered)


@lru_cache(maxsize=256)
def _has_one(accept: str, offered: tuple[str, ...]) -> bool:
    kinds = {"*/*", *offered}
    return any(clause.partition(";")[0].strip() in kinds for clause in accept.split(","))


@lru_cache(maxsize=512)
def negotiate(
    accept: str, *, transforms: frozenset[str] = TRANSFORMS, media_types: tuple[str, ...] = MEDIA_TYPES
) -> Wanted:
    """The form an Accept header asks for. StatusError (406) when none of it can be served.

    `transforms`: the kinds the answer can be turned into; not everything has columns.
    """
    if not accept.strip():
        return DEFAULT
    for media, parameters in _clauses(accept):
        transform, version = parameters.get("as", ""), parameters.get("v", "")
        stream = parameters.get("stream", STREAM)
        for offered in media_types:
            if media not in (offered, "*/*", "application/*") or stream != STREAM:
                continue
            if offered == YAML and "stream" in parameters:
                continue
            if not parameters.keys().isdisjoint(("as", "g", "v")) and not (
                transform in transforms and _can_be(offered, transform, parameters.get("g", ""), version)
            ):
                continue
            return Wanted(offered, transform, version or "v1", parameters.get("pretty", "") in ("1", "true"))
    raise no_form(media_types)


def _can_be(media_type: str, transform: str, group: str, version: str) -> bool:
    """Whether an answer can be written as a kind of a version; tables have no protobuf."""
    if transform == DISCOVERY:
        return (group, version) == ("apidiscovery.k8s.io", "v2")
    return group == "meta.k8s.io" and version in META_VERSIONS and (media_type, transform) != (PROTOBUF, TABLE)


def _clauses(accept: str) -> list[tuple[str, dict[str, str]]]:
    """Media types with their parameters, in the order in which they are tried."""
    found: list[_Clause] = []
    for clause in accept.split(","):
        media, *given = (part.strip() for part in clause.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (item.partition("=") for item in given) if value}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        if media:
            _insert(found, (quality, media, parameters))
    return [(media, parameters) for _, media, parameters in found]


_Clause = tuple[float, str, dict[str, str]]


def _insert(clauses: list[_Clause], one: _Clause) -> None:
    """Move a clause ahead of those it beats: by its q, or because they are wildcards and it is none.

    The two do not make one order (`*/*;q=1,application/yaml;q=0.9` is YAML, `application/yaml;q=0.5,*/*` is JSON):
    clauses are compared with their neighbours, in the order in which they were sent.
    """
    position = len(clauses)
    while position and _beats(one, clauses[position - 1]):
        position -= 1
    clauses.insert(position, one)


def _beats(one: _Clause, other: _Clause) -> bool:
    (kind, _, detail), (other_kind, _, other_detail) = one[1].partition("/"), other[1].partition("/")
    return one[0] > other[0] or (kind != "*" == other_kind) or (detail != "*" == other_detail)


def pretty_by_default(user_agent: str, pretty: str) -> bool:
    """`?pretty=` decides; without it people at a browser or curl get indented JSON."""
    if pretty:
        return pretty not in ("0", "false")
    return user_agent.startswith(("curl", "Wget", "Mozilla/5.0"))
