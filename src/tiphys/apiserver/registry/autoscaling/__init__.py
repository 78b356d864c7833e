"""Strategies of the autoscaling group, one file a resource."""
