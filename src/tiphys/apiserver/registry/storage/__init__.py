"""Strategies of the storage group, one file a resource."""
