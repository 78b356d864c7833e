"""What a write must pass before the registry sees it."""
