"""Validation rules shared by the strategies of several kinds.

Every rule is a pure function of plain JSON values and a `Path`; it returns `FieldError`s in the order and the words
of the Kubernetes API (https://kubernetes.io/docs/reference/kubernetes-api/). Rules of a single kind live beside its
strategy.
"""
