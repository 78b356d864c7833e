"""Strategies of the discovery group, one file a resource."""
