"""ResourceClaims: made for pods from templates, kept for those that use them, given back afterwards.

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from tiphys.controllers.resourceclaim.controller import ResourceClaimController

__all__ = ["ResourceClaimController"]
