"""Strategies of the apiextensions group, one file a resource."""
