"""Strategies of the flowcontrol group, one file a resource."""
