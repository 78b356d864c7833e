"""Clients of others, unmodified, against Tiphys. Each test is skipped where its client is not installed."""
