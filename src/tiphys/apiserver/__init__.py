"""The API server: one entry to the cluster, and the only room that sees the store."""
