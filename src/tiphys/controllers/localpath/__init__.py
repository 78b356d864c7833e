"""Volumes for everyone: directories of the nodes, made and removed as claims come and go.

provisioner.py   the controller `local-path-provisioner`
volumes.py       the PersistentVolume of a claim, and where its directory is: pure
helper.py        the pods that make and remove directories, on the node where they are: pure
manifests.py     the storage class `local-path` and what the controller may do
"""

from tiphys.controllers.localpath.provisioner import LocalPathProvisioner

__all__ = ["LocalPathProvisioner"]
