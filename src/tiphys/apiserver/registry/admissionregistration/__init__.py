"""Strategies of the admissionregistration group, one file a resource."""
