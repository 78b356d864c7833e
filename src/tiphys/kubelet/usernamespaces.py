"""Which users of the node the users of a pod with `hostUsers: false` are (KEP-127).

    0 ……… 65535 │ 65536 ……… 131071 │ 131072 ……… 196607 │ …        ids of the node
     the node's         a pod's            a pod's                 0 ……… 65535 in the pod

A pod keeps its range in a file of its own directory, which goes last when a pod is removed: what lies there is what
is taken, so nothing is lost or given twice whenever a kubelet ends.
https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import Final

from tiphys.api.cri import api_pb2 as cri
from tiphys.base.log import get_logger
from tiphys.kubelet.config import ConfigError, KubeletConfiguration, KubeletFlags
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import PodUID

log = get_logger(__name__)

UNIT: Final = 65536  # ids that every image may use; ranges are multiples of it
FILE: Final = "userns"
USER: Final = "kubelet"  # whose subordinate ids the pods get, where the node has given it some
LAST_ID: Final = 2**32 - 2  # the one after it means "none" to the kernel


class RangesExhaustedError(Exception):
    """No range of users is free."""


@dataclass(frozen=True, slots=True)
class IDs:
    """`length` users and groups of the node from `first` on."""

    first: int
    length: int

    def overlaps(self, other: IDs) -> bool:
        return self.first < other.first + other.length and other.first < self.first + self.length

    def mapping(self) -> cri.IDMapping:
        """As 0, 1, … of the pod."""
        return cri.IDMapping(container_id=0, host_id=self.first, length=self.length)

    def options(self) -> cri.UserNamespace:
        return cri.UserNamespace(mode=cri.POD, uids=[self.mapping()], gids=[self.mapping()])


class UserNamespaces:
    """The ranges of one node's pods. Every method blocks on the file system."""

    def __init__(self, paths: Paths, available: IDs, length: int) -> None:
        """Pods get `length` ids each out of `available`."""
        self._paths = paths
        self._available = available
        self._length = length
        self._next = available.first
        self._lock = threading.Lock()

    def assign(self, uid: PodUID) -> IDs:
        """The pod's range: the one it has, or a free one from now on. Raises RangesExhaustedError, OSError."""
        with self._lock:
            known = self.of(uid)
            if known is not None:
                return known
            directory = self._paths.pod(uid)
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            ids = self._free()
            record = [{"hostId": ids.first, "containerId": 0, "length": ids.length}]
            temporary = directory / f".{FILE}"
            temporary.write_text(json.dumps({"uidMappings": record, "gidMappings": record}))
            os.rename(temporary, directory / FILE)
            # The next pod gets another one: what an ended one may have left is nobody's for a while.
            self._next = ids.first + ids.length
            return ids

    def of(self, uid: PodUID) -> IDs | None:
        """The pod's range, None when it has none. Raises OSError when its record cannot be read."""
        path = self._paths.pod(uid) / FILE
        try:
            (record,) = json.loads(path.read_bytes())["uidMappings"]
            return IDs(int(record["hostId"]), int(record["length"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{path} is no record of a range of users: {error}") from error

    def _free(self) -> IDs:
        taken = [ids for entry in os.scandir(self._paths.pods) if (ids := self.of(PodUID(entry.name))) is not None]
        end = self._available.first + self._available.length - self._length
        ahead = range(self._next, end + 1, self._length)
        behind = range(self._available.first, min(self._next, end + 1), self._length)
        for first in (*ahead, *behind):
            ids = IDs(first, self._length)
            if not any(ids.overlaps(other) for other in taken):
                return ids
        raise RangesExhaustedError("could not find an empty slot to allocate a user namespace")


def available_ids(config: KubeletConfiguration, flags: KubeletFlags) -> IDs:
    """Ids of the node that its pods may have: those given to it or to the user `kubelet`, else those after its own.

    Runs programs. Raises ConfigError for ids that cannot be used.
    """
    length = config.ids_per_pod
    if length <= 0 or length % UNIT:
        raise ConfigError(f"userNamespaces.idsPerPod: {length} is not a multiple of {UNIT}")
    configured = IDs(*flags.subordinate_ids) if flags.subordinate_ids is not None else _subordinate_ids()
    if configured is None:
        ids = IDs(UNIT, min(config.max_pods * length, (LAST_ID - UNIT) // length * length))
    else:
        ids = configured
    check(ids, length, config.max_pods)
    return ids


def check(ids: IDs, length: int, max_pods: int) -> None:
    """Raises ConfigError when `max_pods` pods cannot have `length` ids each of `ids`."""
    if ids.first < UNIT or ids.first % UNIT:
        raise ConfigError(f"the subordinate ids of user {USER} begin at {ids.first}, not at a multiple of {UNIT}")
    if ids.length % UNIT or ids.first + ids.length - 1 > LAST_ID:
        raise ConfigError(f"{ids.length} subordinate ids of user {USER} are not a multiple of {UNIT}")
    if ids.length < length * max_pods:
        raise ConfigError(f"{ids.length} subordinate ids of user {USER} are too few for {max_pods} pods of {length}")


def _subordinate_ids() -> IDs | None:
    """What /etc/subuid and /etc/subgid give to the user `kubelet`; None without user, program or entry."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return None
    program = shutil.which("getsubids")
    if program is None:
        return None
    found = []
    for arguments in ([program, USER], [program, "-g", USER]):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log.info("user %s has no subordinate ids: %s", USER, done.stderr.strip())
            return None
        found.append(parse_subids(done.stdout))
    users, groups = found
    if users != groups or len(users) != 1:
        raise ConfigError(f"user {USER} needs one range of subordinate ids, the same for users and groups")
    return users[0]


def parse_subids(text: str) -> list[IDs]:
    """The ranges that getsubids(1) prints: `0: kubelet 65536 7208960`. Raises ConfigError."""
    try:
        return [IDs(int(first), int(length)) for _, _, first, length in map(str.split, text.splitlines())]
    except ValueError as error:
        raise ConfigError(f"getsubids: {error}") from error
