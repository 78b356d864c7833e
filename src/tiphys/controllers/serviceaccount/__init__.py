"""Service accounts of namespaces, the legacy token secrets, and the CA that pods trust the server by.

https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

from tiphys.controllers.serviceaccount.accounts import ServiceAccountController
from tiphys.controllers.serviceaccount.legacytokens import LegacyTokenCleaner
from tiphys.controllers.serviceaccount.rootca import RootCAPublisher
from tiphys.controllers.serviceaccount.tokens import TokenController

__all__ = ["LegacyTokenCleaner", "RootCAPublisher", "ServiceAccountController", "TokenController"]
