"""Strategies of the certificates group, one file a resource."""
