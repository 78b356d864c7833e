"""The four ways to change an object by a patch: JSON patch, merge patch, strategic merge patch, server-side apply.

All work on plain JSON values, leave their inputs alone, and return a new document that shares what did not change.
"""
