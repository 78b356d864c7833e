"""Strategies of the networking group, one file a resource."""
