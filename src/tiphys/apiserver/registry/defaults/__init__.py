"""Static defaults shared by the strategies of several kinds: pod templates, volumes, webhooks.

Each function changes the given plain value in place and is idempotent. "Unset" means absent, null or the zero value, as
the API treats fields that are not pointers.
"""
