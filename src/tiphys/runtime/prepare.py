"""Making a container ready to start: its root file system, its user, its mounts, its config.json.

Runs in a worker thread; whatever fails here is taken away by the caller. Nothing runs yet.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tiphys.api.cri import api_pb2
from tiphys.runtime import filesystems, linux
from tiphys.runtime.errors import InvalidArgument, NotFound
from tiphys.runtime.filesystems import MappedUsers, bind_for
from tiphys.runtime.images.config import ImageConfig
from tiphys.runtime.images.store import Image
from tiphys.runtime.node import Node
from tiphys.runtime.signals import from_cri, signal_number
from tiphys.runtime.spec import mounts as spec_mounts
from tiphys.runtime.spec import users
from tiphys.runtime.spec.build import SpecRequest, build
from tiphys.runtime.spec.mounts import SandboxFiles
from tiphys.runtime.state import ContainerRecord
from tiphys.runtime.usernamespaces import mapping_of


@dataclass(frozen=True, slots=True)
class Joined:
    """What a container shares with its sandbox, the node, or another container."""

    # Namespace kind of the OCI specification to the path to join; "" makes a new one, absent uses the node's.
    namespaces: Mapping[str, str]
    hostname: str
    users: MappedUsers | None = None  # None: the node's


@dataclass(frozen=True, slots=True)
class Request:
    """One CreateContainer call with what was looked up for it."""

    config: api_pb2.ContainerConfig
    sandbox_config: api_pb2.PodSandboxConfig
    image: Image
    files: SandboxFiles
    joined: Joined


def prepare(node: Node, record: ContainerRecord, request: Request) -> ContainerRecord:
    """Make the container's bundle and return its record with the user and stop signal filled in."""
    config = request.config
    options = node.options
    root, bundle = options.container_root(record.id), options.bundle(record.id)
    bundle.mkdir(parents=True, mode=0o711)
    try:
        node.images.lease(options.node, record.id, request.image.layers)
        image_config = node.images.config(request.image)
    except FileNotFoundError as error:
        raise NotFound(f'failed to resolve image "{config.image.image}": {error}') from error
    rootfs = bundle / "rootfs"
    layers = [node.images.layer(name) for name in request.image.layers]
    filesystems.mount_overlay(rootfs, layers, upper=root / "diff", work=root / "work", users=request.joined.users)
    user = resolve_user(config, image_config, rootfs)
    stop_signal = from_cri(config.stop_signal) or image_config.stop_signal or "SIGTERM"
    try:
        signal_number(stop_signal)
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    spec = build(
        SpecRequest(
            container_id=record.id,
            config=config,
            sandbox_id=record.sandbox_id,
            sandbox=request.sandbox_config,
            image=image_config,
            user=user,
            hostname=request.joined.hostname,
            rootfs=rootfs,
            namespaces=request.joined.namespaces,
            users=request.joined.users.mapping if request.joined.users is not None else None,
            mounts=_mounts(node, record, request, image_config),
            cgroup=record.cgroup,
            machine=node.machine,
        )
    )
    (bundle / "config.json").write_bytes(msgspec.json.encode(spec))
    return msgspec.structs.replace(record, uid=user.uid, gid=user.gid, groups=user.groups, stop_signal=stop_signal)


def resolve_user(config: api_pb2.ContainerConfig, image: ImageConfig, rootfs: Path) -> users.User:
    """The numeric user: what the request says, else the image; InvalidArgument when the image does not know it."""
    security = config.linux.security_context
    if security.HasField("run_as_user"):
        # The image's group belongs to the image's user, not to another one.
        user = str(security.run_as_user.value)
    else:
        user = security.run_as_username or image.user
    group = security.run_as_group.value if security.HasField("run_as_group") else None
    fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return users.resolve(
            user,
            run_as_group=group,
            supplemental=security.supplemental_groups,
            merge_image_groups=security.supplemental_groups_policy == api_pb2.Merge,
            passwd=users.passwd_entries(users.read_lines(fd, "/etc/passwd")),
            group=users.group_entries(users.read_lines(fd, "/etc/group")),
        )
    except users.UserNotFound as error:
        raise InvalidArgument(f"failed to generate user string: {error}") from error
    finally:
        os.close(fd)


def _mounts(node: Node, record: ContainerRecord, request: Request, image: ImageConfig) -> list[dict[str, Any]]:
    config = request.config
    security = config.linux.security_context
    root = node.options.container_root(record.id)
    taken = [mount.container_path for mount in config.mounts]
    requested = []
    mountinfo = ""
    for number, mount in enumerate(config.mounts):
        if mount.HasField("image") and mount.image.image:
            work = node.options.bundle(record.id) / "layers"
            source = _image_volume(node, mount, root / "images" / str(number), work, request.joined.users)
        else:
            try:
                source = spec_mounts.prepare_source(mount.host_path)
            except (OSError, ValueError) as error:
                raise InvalidArgument(f'failed to mkdir "{mount.host_path}": {error}') from error
        if mount.propagation != api_pb2.PROPAGATION_PRIVATE:
            mountinfo = mountinfo or Path("/proc/self/mountinfo").read_text()
            problem = spec_mounts.propagation_error(mount, source, mountinfo)
            if problem:
                raise InvalidArgument(f"failed to generate container spec: {problem}")
        mapped = bool(mount.uidMappings or mount.gidMappings)
        if mapped:
            source = _as_users_see_it(request, mount, source, node.options.mounts(record.id) / str(number))
        requested.append(spec_mounts.requested_mount(mount, source, read_only=mount.readonly and not mapped))
    volumes = filesystems.prepare_volumes(
        node.options.bundle(record.id) / "rootfs", image.volumes, taken, root / "volumes"
    )
    for path, directory in volumes:
        requested.append(
            {"destination": path, "type": "bind", "source": str(directory), "options": ["rbind", "rprivate", "rw"]}
        )
    defaults = spec_mounts.default_mounts(privileged=security.privileged)
    own = spec_mounts.sandbox_mounts(request.files, read_only=security.readonly_rootfs, taken=taken)
    return spec_mounts.combine(defaults, [*own, *requested])


def _as_users_see_it(request: Request, mount: api_pb2.Mount, source: str, target: Path) -> str:
    """A mount whose files belong to the pod's users as they do on the node to the node's; returns where it is."""
    users = request.joined.users
    asked = api_pb2.NamespaceOption(
        userns_options=api_pb2.UserNamespace(mode=api_pb2.POD, uids=mount.uidMappings, gids=mount.gidMappings)
    )
    if users is None or mapping_of(asked) != users.mapping:
        raise InvalidArgument(f'the users of mount "{mount.container_path}" are not those of its sandbox')
    # Read-only from the start: a pod's user namespace may change no flags of mounts of the node's, and the OCI
    # runtime, which does not know them all, would.
    read_only, all_read_only = mount.readonly, mount.readonly and mount.recursive_read_only
    try:
        bind_for(users, Path(source), target, read_only=read_only, all_read_only=all_read_only)
    except OSError as error:
        raise InvalidArgument(f'failed to mount "{mount.container_path}": {error.strerror}') from error
    return str(target)


def _image_volume(node: Node, mount: api_pb2.Mount, target: Path, work: Path, users: MappedUsers | None) -> str:
    """An image mounted read-only as a volume (KEP-4639); returns the path of `image_sub_path` in it."""
    image = node.images.find(mount.image.image)
    if image is None:
        raise NotFound(f'image volume "{mount.image.image}" not found')
    filesystems.mount_read_only(target, [node.images.layer(name) for name in image.layers], work=work, users=users)
    if not mount.image_sub_path:
        return str(target)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = linux.open_in_root(fd, mount.image_sub_path, os.O_PATH)
        mode = os.fstat(found).st_mode
        path = os.readlink(f"/proc/self/fd/{found}")
        os.close(found)
    except OSError as error:
        raise InvalidArgument(f'image sub path "{mount.image_sub_path}" cannot be used: {error.strerror}') from error
    finally:
        os.close(fd)
    if not stat.S_ISDIR(mode):
        raise InvalidArgument(f'image sub path "{posixpath.normpath(mount.image_sub_path)}" is not a directory')
    return path
