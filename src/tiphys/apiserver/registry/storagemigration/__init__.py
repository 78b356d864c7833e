"""Strategies of the storagemigration group, one file a resource."""
