"""The container runtime: a CRI v1 server over runc (or crun), conmon and overlayfs.

`server.RuntimeServer` tells the story; `service` and `image_service` translate the wire form; `sandboxes` and
`containers` own the state machines; `images/` is the content-addressed image store. What the kernel is asked
is in `linux` and `namespaces`, what the OCI runtime is asked in `oci`. Nothing here knows the Kubernetes API.
"""
