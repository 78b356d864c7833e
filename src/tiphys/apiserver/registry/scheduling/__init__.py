"""Strategies of the scheduling group, one file a resource."""
