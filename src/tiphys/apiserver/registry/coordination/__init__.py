"""Strategies of the coordination group, one file a resource."""
