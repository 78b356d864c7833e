"""Resource quotas: what a namespace may use in all."""
