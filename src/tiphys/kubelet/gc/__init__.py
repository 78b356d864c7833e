"""What grows and must be cut back: images nobody uses, container logs."""
