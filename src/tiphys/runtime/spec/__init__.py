"""The OCI runtime specification of a container, from what CRI asks and what the image says.

https://github.com/opencontainers/runtime-spec/blob/main/config.md. `build` is a pure function of plain values;
what must be looked up on disk (users in the image, mounts of the machine) is looked up before and passed in.
"""
