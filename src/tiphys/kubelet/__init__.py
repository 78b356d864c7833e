"""The kubelet: turns the pods bound to its node into running containers, and says how they are.

The story starts in `kubelet.py` (what runs) and `pods/worker.py` (a pod's life). Decisions are pure
functions (`pods/actions.py`, `status/`); effects go through CRI (`cri/`), the API (`tiphys.client`)
and the node's file system and cgroups. What does not belong here: how containers are made (the
runtime's) and how packets reach them (the network's).
"""
