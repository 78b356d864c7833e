"""Strategies of the resource group, one file a resource."""
