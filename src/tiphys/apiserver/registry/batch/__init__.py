"""Strategies of the batch group, one file a resource."""
