"""Several authorizers asked in order: the first that allows or denies decides."""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.apiserver.authn.interface import GROUP_MASTERS, UserInfo
from tiphys.apiserver.authz.interface import Attributes, Authorizer, Decision, Verdict
from tiphys.apiserver.authz.resolve import EVERYTHING, Resolved, Resolver, joined


class PrivilegedGroups:
    """Members of system:masters may do everything, whatever the roles say."""

    def authorize(self, attributes: Attributes) -> Decision:
        if GROUP_MASTERS in attributes.user.groups:
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION)


class AlwaysAllow:
    """`--authorization-mode=AlwaysAllow`."""

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision(Verdict.ALLOW)

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        return EVERYTHING


class AlwaysDeny:
    """`--authorization-mode=AlwaysDeny`."""

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision(Verdict.NO_OPINION, "Everything is forbidden.")

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        return Resolved()


class UnionAuthorizer:
    """Asks each in order; when none has an opinion, their reasons are joined."""

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    def replace(self, authorizers: Sequence[Authorizer]) -> None:
        """Ask others from now on."""
        self._authorizers = tuple(authorizers)

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        """See `Resolver`: what those of them can tell that can tell something."""
        return joined(one.resolved(user, namespace) for one in self._authorizers if isinstance(one, Resolver))

    def authorize(self, attributes: Attributes) -> Decision:
        reasons: list[str] = []
        for authorizer in self._authorizers:
            decision = authorizer.authorize(attributes)
            if decision.verdict is not Verdict.NO_OPINION:
                return decision
            if decision.reason:
                reasons.append(decision.reason)
        return Decision(Verdict.NO_OPINION, "\n".join(reasons))
