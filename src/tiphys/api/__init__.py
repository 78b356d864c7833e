"""Wire types of the Kubernetes API v1.36, a module a group and version, and the table of resources.

Structs are frozen and hold what JSON holds; nothing here knows behaviour (defaults, validation).
"""
