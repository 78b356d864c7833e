"""Strategies of the apiregistration group, one file a resource."""
