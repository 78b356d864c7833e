"""Conversions between versions of one kind, one file a group."""
