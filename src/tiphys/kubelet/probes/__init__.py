"""Liveness, readiness and startup probes: one file a way of asking, a worker a probe, a manager for the node."""
