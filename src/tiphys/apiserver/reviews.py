"""The reviews: questions to the server that are answered and not stored.

    TokenReview                          whose token is this?
    SelfSubjectReview                    who am I?
    SubjectAccessReview and its kin      may they? may I? what may I do here?
    serviceaccounts/NAME/token           a new token, please

https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/ and authentication-resources/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tiphys.api.schemas import schema_of
from tiphys.api.table import Resource
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.authn.chain import TokenChain
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.service_account import BoundObject, TokenIssuer, token_id
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.apiserver.authz.interface import Attributes, Authorizer, Verdict, settled
from tiphys.apiserver.authz.resolve import Resolver
from tiphys.apiserver.authz.rules import PolicyRule
from tiphys.apiserver.authz.selectors import selector_errors, selectors_of
from tiphys.apiserver.endpoints.body import BodyDecoder, check_write_options, media_type_of
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.machinery import field
from tiphys.machinery.errors import bad_request, conflict, invalid, not_found
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import GroupKind, GroupResource, GroupVersionKind, ObjectName
from tiphys.machinery.patch.apply import update_managed_fields
from tiphys.machinery.time import format_time

Object = dict[str, Any]
Handler = Callable[[ApiRequest, Any], Awaitable[Response]]
AUTHENTICATION: Final = "authentication.k8s.io"
AUTHORIZATION: Final = "authorization.k8s.io"
TOKEN_REQUEST: Final = GroupVersionKind(AUTHENTICATION, "v1", "TokenRequest")
MIN_LIFETIME: Final = 600
MAX_LIFETIME: Final = 1 << 32
# What the admission plug-in asks for gets a year, so that old clients that never re-read it go on working; they are
# warned after the time they asked for. https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
EXTENDED_FROM: Final = 3607
EXTENDED_LIFETIME: Final = 365 * 24 * 3600
ISSUED: Final = "authentication.kubernetes.io/issued-credential-id"
OTHER_NAMESPACE: Final = "the namespace of the provided object does not match the namespace sent on the request"
# Errors of access reviews do not name the kind of review.
NO_KIND: Final = GroupKind(AUTHORIZATION, "")
BINDABLE: Final = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


class Reviews:
    """Answers reviews. `resolver` answers rules reviews."""

    def __init__(
        self,
        tokens: TokenChain,
        authorizer: Authorizer,
        resolver: Resolver,
        issuer: TokenIssuer | None,
        audiences: Sequence[str],
        *,
        max_lifetime: int = 0,
        extends: bool = True,
    ) -> None:
        """`max_lifetime`: seconds tokens live at most, 0 is no limit; `extends`: see EXTENDED_LIFETIME."""
        self._tokens = tokens
        self._authorizer = authorizer
        self._resolver = resolver
        self._issuer = issuer
        self._audiences = tuple(audiences)
        self._max_lifetime = max_lifetime
        self._extends = extends

    def handlers(self) -> dict[tuple[str, str, str], Handler]:
        """By (group, resource, subresource), for the endpoints' table."""
        return {
            (AUTHENTICATION, "tokenreviews", ""): self._token_review,
            (AUTHENTICATION, "selfsubjectreviews", ""): self._self_subject_review,
            (AUTHORIZATION, "subjectaccessreviews", ""): self._subject_access_review,
            (AUTHORIZATION, "localsubjectaccessreviews", ""): self._local_subject_access_review,
            (AUTHORIZATION, "selfsubjectaccessreviews", ""): self._self_subject_access_review,
            (AUTHORIZATION, "selfsubjectrulesreviews", ""): self._self_subject_rules_review,
            ("", "serviceaccounts", "token"): self._token_request,
        }

    # -- who --------------------------------------------------------------------------------------

    async def _token_review(self, api: ApiRequest, resource: Resource) -> Response:
        review = _prepared(api, resource)
        spec = review.get("spec") or {}
        token, audiences = spec.get("token", ""), tuple(spec.get("audiences") or ())
        if not token:
            raise bad_request("token is required for TokenReview in authentication")
        status: Object = {"user": {}}
        try:
            found = await self._tokens.authenticate_token(token, audiences)
            if found is None:
                status["error"] = "invalid bearer token"
            else:
                user, matching = found
                status = {"authenticated": True, "user": user_json(user)}
                shown = matching or audiences or self._audiences
                if shown:
                    status["audiences"] = list(shown)
        except InvalidToken as error:
            status["error"] = f"[invalid bearer token, {error}]"
        return _answer(api, resource, review, status)

    async def _self_subject_review(self, api: ApiRequest, resource: Resource) -> Response:
        _decode(api, resource.gvk)
        value = {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": {"creationTimestamp": format_time(api.services.now())},
            "status": {"userInfo": user_json(api.request.user)},
        }
        return value_response(201, value, api.wanted)

    # -- may they ---------------------------------------------------------------------------------

    async def _subject_access_review(self, api: ApiRequest, resource: Resource) -> Response:
        review = _prepared(api, resource)
        return await self._decide(api, resource, review, _subject(review.get("spec") or {}))

    async def _local_subject_access_review(self, api: ApiRequest, resource: Resource) -> Response:
        review = _prepared(api, resource)
        return await self._decide(api, resource, review, _subject(review.get("spec") or {}))

    async def _self_subject_access_review(self, api: ApiRequest, resource: Resource) -> Response:
        review = _prepared(api, resource)
        return await self._decide(api, resource, review, api.request.user)

    async def _decide(self, api: ApiRequest, resource: Resource, review: Object, user: UserInfo) -> Response:
        spec = review.get("spec") or {}
        errors = _access_errors(spec, asks_for_subject=resource.plural in _FOR_OTHERS)
        errors += _metadata_errors(review.get("metadata") or {}, namespaced=resource.namespaced)
        if resource.namespaced:
            errors += _namespace_errors(spec, api.info.namespace)
        if errors:
            raise invalid(NO_KIND, "", errors)
        attributes, problems = attributes_of(spec, user)
        decision = await settled(lambda: self._authorizer.authorize(attributes))
        status: Object = {"allowed": decision.allowed}
        if decision.verdict is Verdict.DENY:
            status["denied"] = True
        if decision.reason:
            status["reason"] = decision.reason
        if problems:
            status["evaluationError"] = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        return _answer(api, resource, review, status)

    async def _self_subject_rules_review(self, api: ApiRequest, resource: Resource) -> Response:
        review = _decode(api, resource.gvk)
        namespace = (review.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise bad_request("no namespace on request")
        found = self._resolver.resolved(api.request.user, namespace)
        rules = found.rules
        status: Object = {
            "resourceRules": [_resource_rule(rule) for rule in rules if rule.resources],
            "nonResourceRules": [
                {"verbs": list(rule.verbs), "nonResourceURLs": list(rule.non_resource_urls)}
                for rule in rules
                if rule.non_resource_urls
            ],
            "incomplete": found.incomplete,
        }
        if found.problem:
            status["evaluationError"] = found.problem
        value = {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": {},
            "spec": {},
            "status": status,
        }
        return value_response(201, value, api.wanted)

    # -- tokens -----------------------------------------------------------------------------------

    async def _token_request(self, api: ApiRequest, served: ServedResource) -> Response:
        request = _decode(api, TOKEN_REQUEST)
        key = ObjectName(api.info.namespace, api.info.name)
        account = api.services.reader.get("", "serviceaccounts", key)
        if account is None:
            raise not_found(GroupResource("", "serviceaccounts"), api.info.name)
        if self._issuer is None:
            raise bad_request("this server has no key to sign tokens with")
        given_metadata = _check_account(api, request.get("metadata") or {}, account)
        spec = request.setdefault("spec", {})
        given: Object = {"metadata": given_metadata}
        given["spec"] = {name: value for name, value in spec.items() if value is not None}
        if request.get("status"):
            given["status"] = request["status"]
        if spec.get("expirationSeconds") is None:
            spec["expirationSeconds"] = given["spec"]["expirationSeconds"] = 3600
        _check_lifetime(spec["expirationSeconds"])
        admission = RequestAdmission(api, served, Operation.CREATE, subresource="token", kind=TOKEN_REQUEST)
        await admission.mutate(request, None)
        await admission.validate(request, None)
        if self._max_lifetime:
            spec["expirationSeconds"] = min(spec["expirationSeconds"], self._max_lifetime)
        if not spec.get("audiences"):
            spec["audiences"] = list(self._audiences)
        bound = self._bound_object(api, spec.get("boundObjectRef"), account)
        token, expires = self._sign(account, spec, bound)
        if api.request.audit is not None:
            api.request.audit.annotations[ISSUED] = f"JTI={token_id(token)}"
        metadata: Object = {
            **given_metadata,
            "name": api.info.name,
            "namespace": api.info.namespace,
            "uid": account["metadata"]["uid"],
            "creationTimestamp": format_time(api.services.now()),
        }
        metadata["managedFields"] = _managed(api, TOKEN_REQUEST, given, "token")
        value = {
            "kind": "TokenRequest",
            "apiVersion": f"{AUTHENTICATION}/v1",
            "metadata": metadata,
            "spec": {
                "audiences": spec["audiences"],
                "expirationSeconds": spec["expirationSeconds"],
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": format_time(datetime.fromtimestamp(expires, UTC))},
        }
        return value_response(201, value, api.wanted)

    def _sign(self, account: Mapping[str, Any], spec: Object, bound: BoundObject | None) -> tuple[str, int]:
        assert self._issuer is not None
        metadata, lifetime, warn_after = account["metadata"], spec["expirationSeconds"], 0
        of_pod = bound is not None and bound.kind == "Pod"
        if self._extends and of_pod and lifetime == EXTENDED_FROM and tuple(spec["audiences"]) == self._audiences:
            warn_after, lifetime = lifetime, EXTENDED_LIFETIME
            if self._max_lifetime:
                lifetime = max(warn_after, min(lifetime, self._max_lifetime))
        token, expires = self._issuer.bound(
            metadata["namespace"], metadata["name"], metadata["uid"], spec["audiences"], lifetime, bound, warn_after
        )
        # The client is told the time it asked for, and renews by it.
        return token, expires - lifetime + warn_after if warn_after else expires

    @staticmethod
    def _bound_object(api: ApiRequest, reference: Object | None, account: Mapping[str, Any]) -> BoundObject | None:
        if reference is None:
            return None
        kind = reference.get("kind", "")
        resource = BINDABLE.get(kind)
        if resource is None or _group_of(reference):
            raise bad_request(f"cannot bind token to object of type {_group_version_kind(reference)}")
        name = reference.get("name", "")
        if not name:
            raise bad_request("Name parameter required.")
        namespace = "" if kind == "Node" else api.info.namespace
        reader = api.services.reader
        found = reader.get("", resource, ObjectName(namespace, name))
        if found is None:
            raise not_found(GroupResource("", resource), name)
        uid = found["metadata"]["uid"]
        if reference.get("uid") and reference["uid"] != uid:
            message = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                f"The object might have been deleted and then recreated"
            )
            raise conflict(GroupResource("", kind), name, message)
        if kind != "Pod":
            return BoundObject(kind, name, uid)
        spec = found.get("spec", {})
        if (spec.get("serviceAccountName") or "default") != account["metadata"]["name"]:
            message = "cannot bind token for serviceaccount {!r} to pod running with different serviceaccount name."
            raise bad_request(message.format(account["metadata"]["name"]).replace("'", '"'))
        node_name = spec.get("nodeName", "")
        node = reader.get("", "nodes", ObjectName("", node_name)) if node_name else None
        return BoundObject(kind, name, uid, node_name, node["metadata"]["uid"] if node else "")


_FOR_OTHERS: Final = frozenset({"subjectaccessreviews", "localsubjectaccessreviews"})


def user_json(user: UserInfo) -> Object:
    """A user as the API shows it, without empty parts."""
    shown: Object = {"username": user.name}
    if user.uid:
        shown["uid"] = user.uid
    if user.groups:
        shown["groups"] = list(user.groups)
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra.items()}
    return shown


def attributes_of(spec: Mapping[str, Any], user: UserInfo) -> tuple[Attributes, list[str]]:
    """The question of an access review's spec, asked about `user`, and what of it was not understood."""
    resource = spec.get("resourceAttributes")
    if resource is None:
        other = spec.get("nonResourceAttributes") or {}
        verb, path = other.get("verb", ""), other.get("path", "")
        return Attributes(user=user, verb=verb, resource_request=False, path=path), []
    fields, labels, problems = selectors_of(resource, Path("spec").child("resourceAttributes"))
    asked = Attributes(
        user=user,
        verb=resource.get("verb", ""),
        resource_request=True,
        api_group=resource.get("group", ""),
        api_version=resource.get("version", ""),
        namespace=resource.get("namespace", ""),
        resource=resource.get("resource", ""),
        subresource=resource.get("subresource", ""),
        name=resource.get("name", ""),
        field_selector=fields,
        label_selector=labels,
    )
    return asked, problems


def _metadata_errors(metadata: Object, *, namespaced: bool) -> list[FieldError]:
    """An access review is about nothing but its spec."""
    allowed = {"managedFields", "namespace"} if namespaced else {"managedFields"}
    if metadata.keys() <= allowed:
        return []
    detail = "must be empty except for namespace" if namespaced else "must be empty"
    return [field.invalid(Path("metadata"), metadata, detail)]


def _namespace_errors(spec: Mapping[str, Any], namespace: str) -> list[FieldError]:
    """What a local review may not ask: about other namespaces, and about what is in none."""
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    path, errors = Path("spec"), []
    if resource is not None and resource.get("namespace", "") != namespace:
        where = path.child("resourceAttributes").child("namespace")
        errors.append(field.invalid(where, resource.get("namespace", ""), "must match metadata.namespace"))
    if other is not None:
        message = "disallowed on this kind of request"
        errors.append(field.invalid(path.child("nonResourceAttributes"), _shown_path(other), message))
    return errors


def _shown_path(other: Mapping[str, Any]) -> Object:
    return {"Path": other.get("path", ""), "Verb": other.get("verb", "")}


def _subject(spec: Mapping[str, Any]) -> UserInfo:
    extra = {key: tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
    return UserInfo(spec.get("user", ""), spec.get("uid", ""), tuple(spec.get("groups") or ()), extra)


def _access_errors(spec: Mapping[str, Any], *, asks_for_subject: bool) -> list[FieldError]:
    path = Path("spec")
    errors = []
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and other is not None:
        message = "cannot be specified in combination with resourceAttributes"
        errors.append(field.invalid(path.child("nonResourceAttributes"), _shown_path(other), message))
    if resource is None and other is None:
        message = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        errors.append(field.invalid(path.child("resourceAttributes"), None, message))
    if asks_for_subject and not spec.get("user") and not spec.get("groups"):
        errors.append(field.invalid(path.child("user"), "", "at least one of user or group must be specified"))
    return errors + (selector_errors(resource, path.child("resourceAttributes")) if resource is not None else [])


def _check_lifetime(seconds: int) -> None:
    path = Path("spec").child("expirationSeconds")
    if seconds < MIN_LIFETIME:
        error = field.invalid(path, seconds, "may not specify a duration less than 10 minutes")
    elif seconds > MAX_LIFETIME:
        error = field.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")
    else:
        return
    raise invalid(GroupKind(AUTHENTICATION, "TokenRequest"), "", [error])


def _resource_rule(rule: PolicyRule) -> Object:
    parts = {
        "verbs": rule.verbs,
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "resourceNames": rule.resource_names,
    }
    return {key: list(values) for key, values in parts.items() if values}


def _check_account(api: ApiRequest, metadata: Object, account: Mapping[str, Any]) -> Object:
    """What of a token request's metadata is kept. StatusError (400, 409, 422): it is about another account."""
    name, kind = api.info.name, GroupKind(AUTHENTICATION, TOKEN_REQUEST.kind)
    if metadata.get("namespace") not in (None, "", api.info.namespace):
        raise bad_request(OTHER_NAMESPACE)
    if metadata.get("name") not in (None, "", name):
        detail = "must match the service account name if specified"
        raise invalid(kind, name, [field.invalid(Path("metadata").child("name"), metadata["name"], detail)])
    uid, known = metadata.get("uid"), account["metadata"]["uid"]
    if uid and uid != known:
        message = f"the UID in the token request ({uid}) does not match the UID of the service account ({known})"
        raise conflict(GroupResource(AUTHENTICATION, TOKEN_REQUEST.kind), name, message)
    return {key: metadata[key] for key in _METADATA[1:] if metadata.get(key) and key != "namespace"}


def _group_of(reference: Mapping[str, Any]) -> str:
    """The group of a reference; what is no group and version stands for none."""
    parts = str(reference.get("apiVersion") or "").split("/")
    return parts[0] if len(parts) == 2 else ""


def _group_version_kind(reference: Mapping[str, Any]) -> str:
    parts = str(reference.get("apiVersion") or "").split("/")
    shown = "/".join(parts) if len(parts) == 2 else f"/{parts[0]}" if len(parts) == 1 else "/"
    return f"{shown}, Kind={reference.get('kind', '')}"


def _decode(api: ApiRequest, kind: GroupVersionKind) -> Object:
    check_write_options(api.query, "CreateOptions")
    schema = schema_of(kind.group, kind.version, kind.kind)
    decoder = BodyDecoder(kind, schema, api.parameter("fieldValidation"), api.warnings)
    return decoder.decode(api.request.body, media_type_of(api.request.headers.get("content-type", "")))


def _prepared(api: ApiRequest, resource: Resource) -> Object:
    """The review of a request, with the metadata an object gets that is about to be made. StatusError (400)."""
    review = _decode(api, resource.gvk)
    given, namespace = review.get("metadata") or {}, api.info.namespace if resource.namespaced else ""
    if namespace and given.get("namespace", namespace) != namespace:
        raise bad_request(OTHER_NAMESPACE)
    given = {**given, "namespace": namespace}
    metadata = {name: given[name] for name in _METADATA if given.get(name)}
    managed = _managed(api, resource.gvk, {"metadata": metadata, "spec": review.get("spec") or {}})
    if managed:
        metadata["managedFields"] = managed
    return {**review, "metadata": metadata}


# What of the metadata a client gives is kept, in the order in which it is shown.
_METADATA: Final = (
    *("name", "generateName", "namespace", "resourceVersion", "generation"),
    *("labels", "annotations", "ownerReferences", "finalizers"),
)


def _managed(api: ApiRequest, kind: GroupVersionKind, obj: Object, subresource: str = "") -> list[Object]:
    """Even an object that is not stored says who wrote its fields."""
    shown = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, **obj}
    schema = schema_of(kind.group, kind.version, kind.kind)
    return update_managed_fields(
        None,
        shown,
        manager=api.field_manager,
        schema=schema,
        now=api.services.now(),
        api_version=kind.api_version,
        subresource=subresource,
    )


def _answer(api: ApiRequest, resource: Resource, review: Object, status: Object) -> Response:
    value = {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": review.get("metadata") or {},
        "spec": review.get("spec") or {},
        "status": status,
    }
    return value_response(201, value, api.wanted)
