"""Audit: a record of who did what, and what came of it."""
