"""What a container is given: image, environment, mounts, identity, limits, names, and its hooks."""
