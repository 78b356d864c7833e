"""Admission policies: rules in CEL, kept in the cluster, asked in the process.

    policy (what it is about, expressions) ◀─ binding (where it holds, parameters) ─ request matches ─▶ decision

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
"""
