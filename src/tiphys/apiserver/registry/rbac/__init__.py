"""Strategies of the rbac group, one file a resource."""
