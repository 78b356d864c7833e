"""A whole cluster on this machine: what `tiphys up`, `down`, `status` and `node` share.

`spec` says what the cluster is, `layout` where its files lie, `hostnet` and `place` give every node a
network, mounts and cgroups of its own, `supervisor` starts the components and keeps them running.
"""
