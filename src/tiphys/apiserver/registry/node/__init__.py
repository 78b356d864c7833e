"""Strategies of the node group, one file a resource."""
