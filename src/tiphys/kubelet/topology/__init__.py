"""The topology manager: CPUs, memory and devices of a container on the same NUMA nodes.

https://kubernetes.io/docs/tasks/administer-cluster/topology-manager/
"""
