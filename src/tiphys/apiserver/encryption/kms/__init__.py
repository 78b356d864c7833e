"""kms, version 2: values sealed with keys that a key service seals.

`service.py` talks to the service, `envelope.py` seals and opens.
"""
