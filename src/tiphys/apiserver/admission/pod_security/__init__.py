"""The Pod Security Standards, enforced by labels of the namespace."""
