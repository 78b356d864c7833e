"""CRI's user namespaces as the runtime reads them."""

from __future__ import annotations

import pytest

from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.usernamespaces import IDRange, UserMapping, UserNamespaceError, mapping_of, outside

ALL = cri.IDMapping(container_id=0, host_id=131072, length=65536)


def asked(**fields: object) -> cri.NamespaceOption:
    return cri.NamespaceOption(userns_options=cri.UserNamespace(**fields))  # type: ignore[arg-type]


def test_what_a_mapping_is() -> None:
    mapping = mapping_of(asked(mode=cri.POD, uids=[ALL], gids=[ALL]))
    assert mapping == UserMapping((IDRange(0, 131072, 65536),), (IDRange(0, 131072, 65536),))
    assert mapping is not None
    assert mapping.root == (131072, 131072)
    assert mapping.last_gid == 65535
    assert outside(mapping.uids, 1000) == 132072
    with pytest.raises(UserNamespaceError, match="65536 is not mapped"):
        outside(mapping.uids, 65536)
    assert mapping.oci()["uidMappings"] == [{"containerID": 0, "hostID": 131072, "size": 65536}]


def test_the_nodes_users() -> None:
    assert mapping_of(cri.NamespaceOption()) is None
    assert mapping_of(asked(mode=cri.NODE)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": cri.POD},
        {"mode": cri.POD, "uids": [ALL]},
        {"mode": cri.POD, "uids": [cri.IDMapping(container_id=1, host_id=65536, length=10)], "gids": [ALL]},
        {"mode": cri.CONTAINER, "uids": [ALL], "gids": [ALL]},
    ],
)
def test_what_no_pod_could_run_with(fields: dict[str, object]) -> None:
    with pytest.raises(UserNamespaceError):
        mapping_of(asked(**fields))
