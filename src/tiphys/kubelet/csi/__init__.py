"""Volumes of CSI drivers, as the node mounts them.

```
 drivers.py    which drivers are here: they register by socket        nodes.py     CSINode, and the Node's labels
 mounter.py    publish and unpublish: one volume for one pod          attach.py    waiting for VolumeAttachments
 staging.py    stage and unstage: one volume for the node             limits.py    how many a node can have
 volumes.py    PersistentVolumes and inline volumes, to the mounter   record.py    what is mounted, kept on the disk
 request.py    what a driver is told: capabilities, context           client.py    the calls
```
https://kubernetes-csi.github.io/docs/ and https://github.com/container-storage-interface/spec
"""
