"""Strategies of the events group, one file a resource."""
