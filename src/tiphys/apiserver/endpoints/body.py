"""Request bodies: bytes in JSON, YAML or protobuf to the normal form of an object of the expected kind.

fieldValidation: Strict refuses unknown and duplicate fields, Warn (the default) warns of them, Ignore drops them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tiphys.api.protobuf import decode_object_protobuf
from tiphys.api.retired import group_of_kind, is_retired
from tiphys.api.schemas import has_schema
from tiphys.apiserver.endpoints.negotiation import JSON, MEDIA_TYPES, PROTOBUF, YAML
from tiphys.machinery import field
from tiphys.machinery.codec import decode_json, decode_yaml, strict_message, strict_problems
from tiphys.machinery.errors import StatusError, bad_request, invalid, status_of
from tiphys.machinery.field import FieldError, Path, quote
from tiphys.machinery.meta import GroupKind, GroupVersionKind, split_api_version
from tiphys.machinery.misfit import DecodeError, json_type
from tiphys.machinery.normalize import normalize_strictly
from tiphys.machinery.schema import TypeSchema

Object = dict[str, Any]

STRICT: Final = "Strict"
WARN: Final = "Warn"
IGNORE: Final = "Ignore"
SCHEME: Final = "pkg/api/legacyscheme/scheme.go:30"
# Groups that upstream serves from another of its servers say so in their errors.
SCHEMES: Final = {"apiregistration.k8s.io": "pkg/apiserver/scheme/scheme.go:28"}
MAX_MANAGER: Final = 128
NOT_YAML: Final = "error converting YAML to JSON: "


def unsupported_body() -> StatusError:
    """415 in the words of upstream's HTTP layer."""
    return StatusError(
        status_of(415, "UnsupportedMediaType", "415: Unsupported Media Type") | {"details": {}, "code": 415}
    )


def unknown_format(accepted: Sequence[str]) -> StatusError:
    """415 where a path takes whatever comes and its handler does not."""
    listed = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return StatusError(status_of(415, "UnsupportedMediaType", message))


def media_type_of(content_type: str) -> str:
    """The media type of a Content-Type header; none given means JSON. StatusError (415) for what nobody reads."""
    if not content_type.strip():
        return JSON
    media = content_type.partition(";")[0].strip().lower()
    if media not in MEDIA_TYPES:
        raise unknown_format(MEDIA_TYPES)
    return media


def syntax_problem(problem: str, media: str) -> str:
    """What is wrong with a body, in the words of the parser that has seen it."""
    # Only JSON is looked into for its kind before it is read.
    return _JSON_PROBLEM + problem if media == JSON else problem.removeprefix(NOT_YAML)


_JSON_PROBLEM: Final = "couldn't get version/kind; json parse error: "


def write_options_errors(query: Any, kind: str) -> list[FieldError]:
    """Errors of dryRun, fieldManager and fieldValidation."""
    errors: list[FieldError] = []
    dry_run = query.get("dryRun")
    manager = (query.get("fieldManager") or [""])[0]
    if len(manager.encode()) > MAX_MANAGER:
        errors.append(field.too_long(Path("fieldManager"), manager, MAX_MANAGER))
    if not manager.isprintable():
        errors.append(field.invalid(Path("fieldManager"), manager, "should only contain printable characters"))
    if dry_run and any(one != "All" for one in dry_run):
        errors.append(field.not_supported(Path("dryRun"), dry_run, ["All"]))
    mode = (query.get("fieldValidation") or [""])[0]
    if mode not in ("", STRICT, WARN, IGNORE):
        errors.append(field.not_supported(Path("fieldValidation"), mode, ["", IGNORE, STRICT, WARN]))
    return errors


def check_write_options(query: Any, kind: str) -> None:
    """Refuse bad CreateOptions, UpdateOptions or PatchOptions (`kind`). StatusError (422)."""
    if not query:
        return
    errors = write_options_errors(query, kind)
    if errors:
        raise invalid(GroupKind("meta.k8s.io", kind), "", errors)


def decode_protobuf(data: bytes) -> Any:
    """The object of a protobuf message. ValueError for what is none, KeyError for one of an unknown kind."""
    if not data:
        raise ValueError("empty data")
    if data == b"k8s\0":
        raise ValueError("empty body")
    return decode_object_protobuf(data)


class BodyDecoder:
    """Decodes one request's body into one expected kind."""

    def __init__(self, expected: GroupVersionKind, schema: TypeSchema | None, mode: str, warnings: list[str]) -> None:
        """`mode` is fieldValidation; `warnings` collects what Warn finds. `schema` None keeps every field."""
        self._expected = expected
        self._schema = schema
        self._mode = mode or WARN
        self._warnings = warnings
        self._custom = schema is not None and schema.custom

    def decode(self, data: bytes, media_type: str) -> Object:
        """The object in normal form. StatusError (400) when it is none, or not of the expected kind."""
        duplicates: list[str] = []
        try:
            if media_type == PROTOBUF:
                value = decode_protobuf(data)
            elif media_type == YAML:
                value, duplicates = decode_yaml(data)
            else:
                value = decode_json(data)
        except KeyError as error:
            raise bad_request(f"no kind is registered for {error.args[0]} in scheme {quote(SCHEME)}") from None
        except ValueError as error:
            raise self._unrecognized(syntax_problem(str(error), media_type), data) from None
        if value is None:
            value = {}
        problem = wrong_kind(value)
        if problem:
            raise self._unrecognized(_JSON_PROBLEM + problem, data)
        if self._custom:
            self._check_custom(value, data)
        return self.normal(self._identified(value), duplicates, data if media_type == JSON else None)

    def _unrecognized(self, problem: str, data: bytes) -> StatusError:
        return bad_request(
            f"the object provided is unrecognized (must be of type {self._expected.kind}): {problem} ({_summary(data)})"
        )

    def _check_custom(self, value: Object, data: bytes) -> None:
        """Custom resources say what they are: nobody fills it in for them."""
        if not value.get("kind"):
            text = data.decode("utf-8", "replace")
            raise self._unrecognized(f"Object 'Kind' is missing in '{text}'", data)
        if not value.get("apiVersion"):
            raise bad_request(
                f"the API version in the data () does not match the expected API version ({self._expected.api_version})"
            )

    def _identified(self, value: Object) -> Object:
        """Check kind and apiVersion, filling in what is left out."""
        expected = self._expected
        kind = value.get("kind") or expected.kind
        api_version = value.get("apiVersion") or expected.api_version
        if kind != expected.kind or api_version != expected.api_version:
            metadata = value.get("metadata")
            self._refuse_kind(kind, api_version, str(metadata.get("name", "")) if isinstance(metadata, dict) else "")
        value["kind"], value["apiVersion"] = kind, api_version
        return value

    def _refuse_kind(self, kind: str, api_version: str, name: str) -> None:
        expected = self._expected
        group, version = split_api_version(api_version)
        if self._schema is not None and self._schema.custom:
            if api_version != expected.api_version:
                raise bad_request(
                    f"the API version in the data ({api_version}) does not match the expected API version "
                    f"({expected.api_version})"
                )
            problem = field.invalid(Path("kind"), kind, f"must be {expected.kind}")
            raise invalid(GroupKind(group, kind), name, [problem])
        if not has_schema(group, version, kind) and not is_retired(api_version, kind):
            raise bad_request(
                f'{kind} in version "{version}" cannot be handled as a {expected.kind}: no kind "{kind}" is registered '
                f'for version "{api_version}" in scheme "{SCHEMES.get(expected.group, SCHEME)}"'
            )
        if kind == expected.kind and group_of_kind(group, kind) == group_of_kind(expected.group, kind):
            raise bad_request(
                f"the API version in the data ({api_version}) does not match the expected API version "
                f"({expected.api_version})"
            )
        wanted_group = expected.group.partition(".")[0] or "core"
        raise bad_request(
            f'{kind} in version "{version}" cannot be handled as a {expected.kind}: converting ({version}.{kind}) to '
            f"({wanted_group}.{expected.kind}): unknown conversion"
        )

    def normal(self, value: Object, duplicates: list[str], data: bytes | None) -> Object:
        """Normal form. `duplicates` come from a YAML parser; `data` is the JSON text, to find duplicates in.

        StatusError (400) for wrong types, and for problems when the mode is Strict.
        """
        if self._schema is None:
            return value
        try:
            normal, doubtful = normalize_strictly(value, self._schema)
        except DecodeError as error:
            raise self.unfit(str(error)) from None
        if self._mode != IGNORE:
            problems = strict_problems(value, self._schema, data, only_known=not doubtful)
            if problems or duplicates:
                self._report(problems, duplicates)
        return normal

    def unfit(self, problem: str) -> StatusError:
        """400: the body is not an object of the kind."""
        expected = self._expected
        return bad_request(
            f'{expected.kind} in version "{expected.version}" cannot be handled as a {expected.kind}: {problem}'
        )

    def emptied(self, data: bytes, media_type: str) -> list[tuple[str, ...]]:
        """Paths of lists that the body gives as `[]` where the normal form says null.

        The object is the same, but whoever says that a list is empty owns it.
        """
        if self._schema is None or media_type == PROTOBUF or b"[]" not in data:
            return []
        value = decode_yaml(data).value if media_type == YAML else decode_json(data)
        return list(_empty_lists(value, self._schema, ()))

    def _report(self, problems: list[str], duplicates: list[str]) -> None:
        if self._mode == STRICT:
            raise self.unfit(strict_message(problems, duplicates))
        self._warnings += duplicates
        self._warnings += problems


def _empty_lists(value: Any, schema: TypeSchema, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, found in value.items() if isinstance(value, dict) else ():
        one = schema.fields.get(name)
        if one is None:
            continue
        if one.kind == "[" and one.always and found == []:
            yield (*path, name)
        elif one.kind == "@" and one.type is not None:
            yield from _empty_lists(found, one.type, (*path, name))


def wrong_kind(value: Any) -> str:
    """What the parser of kind and apiVersion says to a document that is no object, or names its kind with no text."""
    if not isinstance(value, dict):
        return (
            f"json: cannot unmarshal {json_type(value)} into Go value of type struct "
            '{ APIVersion string "json:\\"apiVersion,omitempty\\""; '
            'Kind string "json:\\"kind,omitempty\\"" }'
        )
    for name in ("kind", "apiVersion"):
        found = value.get(name)
        if found is not None and not isinstance(found, str):
            return f"json: cannot unmarshal {json_type(found)} into Go struct field .{name} of type string"
    return ""


SUMMARY_BYTES: Final = 30


def _summary(data: bytes) -> str:
    """The start of a body for an error message: text when it looks like JSON, else hexadecimal."""
    if not data:
        return "<empty>"
    start = data[:SUMMARY_BYTES]
    text = start.decode("utf-8", "replace") if data[:1] == b"{" else start.hex()
    return f"{text} ..." if len(data) > SUMMARY_BYTES else text
