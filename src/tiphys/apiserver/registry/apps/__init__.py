"""Strategies of the apps group, one file a resource."""
