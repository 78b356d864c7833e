"""Where keys are in etcd: each comes back as it was, ranges hold what they hold here, old places are cleared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import etcd
from tiphys.store import EtcdAccess, open_store, prefix_end
from tiphys.store.etcd.wire import Keys

LAYOUT = {
    "/registry/core/nodes/": "/registry/minions/",
    "/registry/core/services/": "/registry/services/specs/",
    "/registry/core/endpoints/": "/registry/services/endpoints/",
    "/registry/apps/deployments/": "/registry/deployments/",
}
PLACES = [
    ("/registry/core/nodes/a", "/registry/minions/a"),
    ("/registry/core/nodes/a\0", "/registry/minions/a\0"),
    ("/registry/core/services/d/a", "/registry/services/specs/d/a"),
    ("/registry/core/endpoints/d/a", "/registry/services/endpoints/d/a"),
    ("/registry/apps/deployments/d/", "/registry/deployments/d/"),
    ("/registry/example.com/widgets/d/a", "/registry/example.com/widgets/d/a"),
    ("/registry/ranges/servicenodeports/1", "/registry/ranges/servicenodeports/1"),
    ("/registry/masterleases/192.0.2.1", "/registry/masterleases/192.0.2.1"),
    ("/registry/", "/registry/"),
    ("compact_rev_key", "compact_rev_key"),
    ("/other/core/nodes/a", "/other/core/nodes/a"),
]


@pytest.mark.parametrize(("here", "there"), PLACES)
@pytest.mark.parametrize("prefix", ["/registry", "/some/place"])
def test_there_and_back(here: str, there: str, prefix: str) -> None:
    keys = Keys(prefix, LAYOUT)
    expected = prefix + there[len("/registry") :] if there.startswith("/registry/") else there
    assert keys.there(here) == expected.encode()
    assert keys.here(expected.encode()) == here


@pytest.mark.parametrize(
    ("end", "there"),
    [
        ("/registry/core/nodes0", "/registry/minions0"),
        ("/registry/core/services0", "/registry/services/specs0"),
        ("/registry/core/services/d0", "/registry/services/specs/d0"),
        ("/registry/example.com/widgets0", "/registry/example.com/widgets0"),
        ("/registry0", "/registry0"),
    ],
)
def test_ends_of_ranges(end: str, there: str) -> None:
    assert Keys(layout=LAYOUT).end(end) == there.encode()


@pytest.mark.skipif(not etcd.programs(), reason=etcd.WHY_NOT)
async def test_keys_written_before_are_moved_once(tmp_path: Path) -> None:
    with etcd.EtcdCluster(tmp_path, program=etcd.programs()[0], durable=False) as cluster:
        before = await open_store(cluster.urls[0])
        lease = (await before.grant_lease(600)).id
        await before.create("/registry/core/nodes/a", b"1", lease=lease)
        await before.create("/registry/example.com/widgets/d/a", b"2")
        await before.create("/registry/core/services/d/old", b"3")
        await before.create("/registry/services/specs/d/old", b"newer")
        moved = await open_store(cluster.urls[0], etcd=EtcdAccess(layout=LAYOUT))
        node = await moved.get("/registry/core/nodes/a")
        assert node is not None
        assert (node.value, node.lease) == (b"1", lease)
        assert await before.get("/registry/minions/a") is not None
        assert await before.get("/registry/core/nodes/a") is None
        newer = await moved.get("/registry/core/services/d/old")  # what is in the new place stays
        assert newer is not None
        assert newer.value == b"newer"
        revision = await moved.current_revision()
        again = await open_store(cluster.urls[0], etcd=EtcdAccess(layout=LAYOUT))
        assert await again.current_revision() == revision
        found = await moved.range("/registry/core/nodes/", prefix_end("/registry/core/nodes/"))
        assert [kv.key for kv in found.items] == ["/registry/core/nodes/a"]
        watcher = moved.watch("/registry/core/nodes/", prefix_end("/registry/core/nodes/"), from_revision=revision + 1)
        await moved.create("/registry/core/nodes/b", b"1")
        assert [event.kv.key for event in await anext(aiter(watcher))] == ["/registry/core/nodes/b"]
        for store in (before, moved, again):
            await store.close()
