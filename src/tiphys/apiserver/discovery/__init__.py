"""Which groups, versions and resources there are."""
