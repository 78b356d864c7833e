"""Services of type LoadBalancer without a cloud: addresses from a pool, answered for on the nodes' own network.

`assign` gives addresses (one agent at a time, by lease), `announce` says which node answers for
which, `arp` and `ndp` answer, `agent` does both on every node. The proxy does the rest: what is sent to
such an address is translated on the node it arrives at.
"""
