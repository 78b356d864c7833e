"""Strategies of the core group, one file a resource."""
