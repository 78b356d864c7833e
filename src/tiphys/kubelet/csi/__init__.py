"""Volumes of CSI drivers, as the node mounts them.

```
 drivers.py    which drivers are here: they register by socket        nodes.py     CSINode, and the Node's labels
 mounter.py    stage, publish, unpublish, unstage: one volume a pod   attach.py    waiting for VolumeAttachments
 volumes.py    PersistentVolumes and inline volumes, to the mounter   record.py    what is mounted, kept on the disk
 request.py    what a driver is told: capabilities, context           client.py    the calls
```
https://kubernetes-csi.github.io/docs/ and https://github.com/container-storage-interface/spec
"""
