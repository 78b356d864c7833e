"""NetworkPolicy on one node: `compile` reads policies, `state` decides, `agent` applies, `gate` lets pods wait.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""
