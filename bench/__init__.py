"""Measurements behind docs/performance.md: `python -m bench PART…`."""
