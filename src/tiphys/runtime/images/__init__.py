"""Images: references, the content-addressed store, registries, archives, and images assembled on this machine."""
