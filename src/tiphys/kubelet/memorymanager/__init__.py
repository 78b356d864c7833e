"""The memory manager: memory of chosen NUMA nodes for the containers of guaranteed pods.

https://kubernetes.io/docs/tasks/administer-cluster/memory-manager/
"""
