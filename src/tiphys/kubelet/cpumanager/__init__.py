"""The CPU manager: CPUs of their own for containers of guaranteed pods that ask for whole ones.

https://kubernetes.io/docs/concepts/policy/node-resource-managers/#cpu-management-policies
"""
