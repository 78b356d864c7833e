"""ListOptions: the query of a list, watch or deletecollection, checked as the API checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tiphys.apiserver.endpoints.request_info import is_true
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.watchcache import Filter
from tiphys.machinery import field
from tiphys.machinery.errors import bad_request, invalid
from tiphys.machinery.field import FieldError, Path, quote
from tiphys.machinery.meta import GroupKind, GroupResource
from tiphys.machinery.selectors import FieldSelector, LabelSelector

EXACT = "Exact"
NOT_OLDER_THAN = "NotOlderThan"


@dataclass(slots=True, kw_only=True)
class ListOptions:
    """metav1.ListOptions, decoded. Empty strings and None mean absent; `timeout` is in seconds."""

    label_selector: str = ""
    field_selector: str = ""
    watch: bool = False
    allow_bookmarks: bool = False
    resource_version: str = ""
    resource_version_match: str = ""
    timeout: int | None = None
    limit: int = 0
    continue_token: str = ""
    send_initial_events: bool | None = None

    @classmethod
    def parse(cls, query: Mapping[str, list[str]], *, watch: bool) -> ListOptions:
        """From the query. StatusError (400) for what is no number, (422) for combinations that make no sense."""

        def text(name: str) -> str:
            values = query.get(name)
            return values[0] if values else ""

        options = cls(
            label_selector=text("labelSelector"),
            field_selector=text("fieldSelector"),
            watch=watch,
            allow_bookmarks=is_true(query, "allowWatchBookmarks"),
            resource_version=text("resourceVersion"),
            resource_version_match=text("resourceVersionMatch"),
            timeout=parse_int(text("timeoutSeconds")) if "timeoutSeconds" in query else None,
            limit=parse_int(text("limit")) if "limit" in query else 0,
            continue_token=text("continue"),
            send_initial_events=is_true(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
        )
        errors = options._watch_errors() if watch else options._list_errors()
        if errors:
            raise invalid(GroupKind("meta.k8s.io", "ListOptions"), "", errors)
        return options

    def _list_errors(self) -> list[FieldError]:
        errors: list[FieldError] = []
        match, path = self.resource_version_match, Path("resourceVersionMatch")
        if match:
            if not self.resource_version:
                errors.append(
                    field.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
                )
            if self.continue_token:
                errors.append(field.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
            if match not in (EXACT, NOT_OLDER_THAN):
                errors.append(field.not_supported(path, match, [EXACT, NOT_OLDER_THAN, ""]))
            if match == EXACT and self.resource_version == "0":
                message = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
                errors.append(field.forbidden(path, message))
        if self.send_initial_events is not None:
            errors.append(field.forbidden(Path("sendInitialEvents"), "sendInitialEvents is forbidden for list"))
        return errors

    def _watch_errors(self) -> list[FieldError]:
        errors: list[FieldError] = []
        match, path = self.resource_version_match, Path("resourceVersionMatch")
        if self.send_initial_events is not None and match != NOT_OLDER_THAN:
            message = f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}"
            errors.append(field.forbidden(path, message))
        if match:
            if self.send_initial_events is None:
                message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
                errors.append(field.forbidden(path, message))
            if match != NOT_OLDER_THAN:
                errors.append(field.not_supported(path, match, [NOT_OLDER_THAN]))
        # A watch from the start is one of initial events, which has a match although the query does not say so.
        from_start = self.send_initial_events is None and self.resource_version in ("", "0")
        if self.continue_token and (match or from_start):
            errors.append(field.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
        return errors

    def filter(self, served: ServedResource, namespace: str, name: str = "") -> Filter:
        """The selectors as a filter. StatusError (400) for what does not parse or names unknown fields."""
        labels, fields = None, None
        try:
            if self.label_selector:
                labels = LabelSelector.parse(self.label_selector)
            if self.field_selector:
                fields = FieldSelector.parse(self.field_selector)
        except ValueError as error:
            raise bad_request(str(error)) from None
        if fields is not None:
            fields = self._known_fields(served, fields)
        return Filter(
            namespace,
            name,
            self.label_selector if labels is not None and not labels.empty else "",
            self.field_selector if fields is not None and not fields.empty else "",
            None if labels is None or labels.empty else labels,
            None if fields is None or fields.empty else fields,
        )

    @staticmethod
    def _known_fields(served: ServedResource, fields: FieldSelector) -> FieldSelector:
        """The selector on the stored fields. StatusError (400) for a field nobody can select by."""
        known = served.strategy.field_labels()
        if not _own_fields(known):
            # Also of objects without a namespace: none of them has one.
            known.setdefault("metadata.namespace", "")
        labels = served.conversion.field_labels if served.conversion is not None else {}
        hidden = set(labels.values())
        for requirement in fields.requirements:
            name = requirement.field
            if name in hidden or labels.get(name, name) not in known:
                raise bad_request(unknown_field(served, name, known))
        if not labels:
            return fields
        return FieldSelector(tuple(replace(one, field=labels.get(one.field, one.field)) for one in fields.requirements))


_GENERIC_FIELDS = ("metadata.name", "metadata.namespace")
_ONLY_GENERIC = '{quoted} is not a known field selector: only "metadata.name", "metadata.namespace"'
# Kinds that say it in their own words.
_UNKNOWN_FIELD = {
    GroupResource("apps", "replicasets"): _ONLY_GENERIC,
    GroupResource("batch", "jobs"): 'field label "{name}" not supported for {kind}',
    GroupResource(
        "resource.k8s.io", "resourceslices"
    ): "field label not supported for {api_version}, Kind={kind}: {name}",
}


def unknown_field(served: ServedResource, name: str, known: Mapping[str, str]) -> str:
    """What a client is told about a field nobody can select by."""
    special = _UNKNOWN_FIELD.get(served.group_resource)
    if special:
        resource = served.resource
        return special.format(name=name, quoted=quote(name), api_version=resource.api_version, kind=resource.kind)
    if _own_fields(known):
        return f"field label not supported: {name}"
    return _ONLY_GENERIC.format(quoted=quote(name))


def _own_fields(known: Mapping[str, str]) -> list[str]:
    """The fields a kind can be selected by besides those of every kind."""
    return [field for field in known if field not in _GENERIC_FIELDS]


def parse_int(text: str) -> int:
    """A 64-bit number. StatusError (400) worded as upstream's parser."""
    try:
        value = int(text)
    except ValueError:
        raise bad_request(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise bad_request(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def parse_revision(text: str) -> int:
    """A resourceVersion as a number. ValueError with upstream's words when it is none."""
    if not text.isascii() or not text.isdecimal():
        raise ValueError(
            f"resourceVersion: Invalid value: {quote(text)}: strconv.ParseUint: parsing {quote(text)}: invalid syntax"
        )
    if int(text) >= 1 << 64:
        raise ValueError(
            f"resourceVersion: Invalid value: {quote(text)}: strconv.ParseUint: parsing {quote(text)}: "
            "value out of range"
        )
    return int(text)
