"""Names of a cluster: `data` follows the API, `zone` answers from it (Kubernetes DNS specification 1.1.0)."""
