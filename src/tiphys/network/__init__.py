"""The pod network: `cni` connects one pod to its node, `backends` and `agent` connect the nodes.

What belongs elsewhere: Services (proxy), names (dns), who may talk to whom (policy, later).
"""
