"""Informers of several clients as programs.

`KUBECONFIG=… python THIS.py NAMESPACE` prints each event of a ConfigMap as a line of JSON (type, name, resourceVersion)
until it is ended. Each does what its client's users do when a watch ends.
"""
