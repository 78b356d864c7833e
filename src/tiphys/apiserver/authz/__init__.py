"""May they."""
