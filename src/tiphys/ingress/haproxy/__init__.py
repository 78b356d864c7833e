"""HAProxy as the data plane: its configuration, its process, and what it is told while it runs.

https://docs.haproxy.org/2.6/configuration.html, https://docs.haproxy.org/2.6/management.html
"""
