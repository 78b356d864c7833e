"""Admission webhooks: other programs that are asked about writes.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""
