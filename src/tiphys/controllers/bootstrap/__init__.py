"""Bootstrap tokens: signs the cluster-info that joining nodes read, and deletes expired tokens.

https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from tiphys.controllers.bootstrap.signer import BootstrapSignerController
from tiphys.controllers.bootstrap.tokencleaner import TokenCleanerController

__all__ = ["BootstrapSignerController", "TokenCleanerController"]
