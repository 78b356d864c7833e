"""`authorizer` in expressions: may somebody do something?

authorizer.group('apps').resource('deployments').namespace('a').check('get').allowed()
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Authorizer, Decision


@dataclass(frozen=True, slots=True)
class AuthorizerDecision:
    """The answer."""

    decision: Decision
    cel_type = "kubernetes.authorization.Decision"

    def cel_allowed(self) -> bool:
        return self.decision.allowed

    def cel_reason(self) -> str:
        return self.decision.reason

    def cel_errored(self) -> bool:
        return False

    def cel_error(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class PathCheck:
    """A question about a path that is no resource."""

    authorizer: Authorizer
    user: UserInfo
    path: str
    cel_type = "kubernetes.authorization.PathCheck"

    def cel_check(self, verb: str) -> AuthorizerDecision:
        asked = Attributes(user=self.user, verb=verb, resource_request=False, path=self.path)
        return AuthorizerDecision(self.authorizer.authorize(asked))


@dataclass(frozen=True, slots=True)
class ResourceCheck:
    """A question about a resource; each method makes it narrower."""

    authorizer: Authorizer
    attributes: Attributes
    cel_type = "kubernetes.authorization.ResourceCheck"

    def _with(self, attributes: Attributes) -> ResourceCheck:
        return ResourceCheck(self.authorizer, attributes)

    def cel_resource(self, resource: str) -> ResourceCheck:
        return self._with(replace(self.attributes, resource=resource))

    def cel_subresource(self, subresource: str) -> ResourceCheck:
        return self._with(replace(self.attributes, subresource=subresource))

    def cel_namespace(self, namespace: str) -> ResourceCheck:
        return self._with(replace(self.attributes, namespace=namespace))

    def cel_name(self, name: str) -> ResourceCheck:
        return self._with(replace(self.attributes, name=name))

    def cel_fieldSelector(self, selector: str) -> ResourceCheck:  # the method's name in CEL
        return self._with(replace(self.attributes, field_selector=selector))

    def cel_labelSelector(self, selector: str) -> ResourceCheck:  # the method's name in CEL
        return self._with(replace(self.attributes, label_selector=selector))

    def cel_check(self, verb: str) -> AuthorizerDecision:
        return AuthorizerDecision(self.authorizer.authorize(replace(self.attributes, verb=verb)))


class CelAuthorizer:
    """The variable itself; its one field is `requestResource`."""

    cel_type = "kubernetes.authorization.Authorizer"

    def __init__(self, authorizer: Authorizer, user: UserInfo, request: ResourceCheck | None) -> None:
        self._authorizer = authorizer
        self._user = user
        self._request = request
        self.cel_fields = {} if request is None else {"requestResource": request}

    def cel_path(self, path: str) -> PathCheck:
        return PathCheck(self._authorizer, self._user, path)

    def cel_group(self, group: str) -> ResourceCheck:
        asked = Attributes(user=self._user, verb="", resource_request=True, api_group=group, api_version="*")
        return ResourceCheck(self._authorizer, asked)

    def cel_serviceAccount(self, namespace: str, name: str) -> CelAuthorizer:  # the method's name in CEL
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        user = UserInfo(f"system:serviceaccount:{namespace}:{name}", groups=groups)
        return CelAuthorizer(self._authorizer, user, self._request)
