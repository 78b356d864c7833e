"""Strategies of the policy group, one file a resource."""
