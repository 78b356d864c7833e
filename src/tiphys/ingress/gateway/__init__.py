"""The Gateway API where a cluster has its CRDs: GatewayClass, Gateway, HTTPRoute, ReferenceGrant.

https://gateway-api.sigs.k8s.io/reference/spec/
"""
