"""The image store: names that move, images that go, layers that stay while a container stands on them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.unit.runtime.archives import Entry, image, pack, tar
from tiphys.runtime.images.archive import ArchiveError, import_archive
from tiphys.runtime.images.reference import parse
from tiphys.runtime.images.store import Image, ImageStore, layer_names

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers belong to root")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def entered(store: ImageStore, tmp_path: Path, name: str, content: bytes) -> Image:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tar"
    path.write_bytes(image([tar(Entry("base")), tar(Entry("file", content))]).oci_layout(name))
    return import_archive(store, path)[0]


def test_find(store: ImageStore, tmp_path: Path) -> None:
    entry = entered(store, tmp_path, "docker.io/library/app:v1", b"1")
    digest = entry.digests[0]
    for name in (
        "app:v1",
        "docker.io/library/app:v1",
        entry.id,
        entry.id[7:],
        entry.id[7:19],
        digest,
        f"app:v2@{digest[-71:]}",
    ):
        assert store.find(name) == entry, name
    for name in ("app", "other:v1", "sha256:" + "0" * 64, "NOT VALID"):
        assert store.find(name) is None, name
    assert entry.pinned


def test_a_name_moves_to_the_newer_image(store: ImageStore, tmp_path: Path) -> None:
    old = entered(store, tmp_path, "app:v1", b"old")
    new = entered(store, tmp_path, "app:v1", b"new")
    assert store.find("app:v1") == new
    left = store.find(old.id)
    assert left is not None
    assert left.tags == ()


def test_one_image_of_two_names(store: ImageStore, tmp_path: Path) -> None:
    entered(store, tmp_path, "app:v1", b"same")
    both = entered(store, tmp_path, "app:v2", b"same")
    store.tag(both.id, parse("third:v3"))
    found = store.find("app:v1")
    assert found is not None
    assert found.tags == ("docker.io/library/app:v1", "docker.io/library/app:v2", "docker.io/library/third:v3")


def test_collection(store: ImageStore, tmp_path: Path) -> None:
    """
    leased:  base, one     image gone, kept by a container
    other:   base, two     image gone, nobody stands on it
    """
    leased = entered(store, tmp_path, "leased:1", b"1")
    other = entered(store, tmp_path, "other:1", b"2")
    assert leased.layers[0] == other.layers[0]
    store.lease("node", "container", leased.layers)
    store.remove(leased.id)
    store.remove(other.id)
    assert store.collect() == 1
    assert all(store.layer(name).exists() for name in leased.layers)
    store.release("node", "container")
    assert store.collect() == 2
    assert not any((store.root / "layers").iterdir())
    assert not any((store.root / "blobs/sha256").iterdir())


def test_nothing_is_collected_while_somebody_adds(store: ImageStore, tmp_path: Path) -> None:
    gone = entered(store, tmp_path, "gone:1", b"1")
    store.remove(gone.id)
    with store.adding():
        assert store.collect() == 0
    assert store.collect() == 2


def test_a_lease_on_a_missing_layer(store: ImageStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.lease("node", "container", ("0" * 32,))
    assert store.leases("node") == []


def test_one_layer_is_made_once(store: ImageStore) -> None:
    made = []
    barrier = threading.Barrier(4)

    def fill(directory: Path) -> None:
        made.append(1)
        (directory / "file").write_text("x")

    def work() -> None:
        barrier.wait()
        store.make_layer("a" * 32, fill)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_layer_that_fails_leaves_nothing(store: ImageStore) -> None:
    def fill(directory: Path) -> None:
        (directory / "file").write_text("x")
        raise ValueError

    with pytest.raises(ValueError):
        store.make_layer("a" * 32, fill)
    assert list((store.root / "layers").iterdir()) == []


def test_another_store_sees_the_change(store: ImageStore, tmp_path: Path) -> None:
    other = ImageStore(store.root)
    assert other.images() == []
    entry = entered(store, tmp_path, "app:v1", b"1")
    assert other.images() == [entry]


def test_chain_names_depend_on_what_is_below() -> None:
    one, two = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    assert layer_names([one, two])[0] == layer_names([one])[0] == "1" * 32
    assert layer_names([two, one])[1] != layer_names([one])[0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"not a tar", id="no archive"),
        pytest.param(tar(Entry("hello")), id="no image"),
        pytest.param(tar(Entry("manifest.json", b"{")), id="broken manifest"),
        pytest.param(tar(Entry("manifest.json", b'[{"Config": "x", "Layers": []}]')), id="missing config"),
    ],
)
def test_broken_archives(store: ImageStore, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(data)
    with pytest.raises(ArchiveError):
        import_archive(store, path)
    assert store.images() == []


def test_a_blob_that_is_not_what_its_name_says(store: ImageStore, tmp_path: Path) -> None:
    files = image([tar(Entry("file"))])
    path = tmp_path / "wrong.tar"
    path.write_bytes(files.oci_layout("a:1").replace(b'"os": "linux"', b'"os": "linuX"'))
    with pytest.raises(ArchiveError, match="has the digest"):
        import_archive(store, path)


def test_untag(store: ImageStore, tmp_path: Path) -> None:
    entered(store, tmp_path, "app:v1", b"same")
    entered(store, tmp_path, "app:v2", b"same")
    image_id = entered(store, tmp_path, "other:v1", b"same").id
    store.untag(parse("app:v1"))
    left = store.find(image_id)
    assert left is not None
    assert left.tags == ("docker.io/library/app:v2", "docker.io/library/other:v1")
    store.untag(parse("other:v1"))
    left = store.find(image_id)
    assert left is not None
    assert [digest.partition("@")[0] for digest in left.digests] == ["docker.io/library/app"]
    store.untag(parse("nothing:v1"))
    store.untag(parse("app:v2"))
    assert store.find(image_id) is None


def test_a_compressed_archive_leaves_nothing_beside_it(store: ImageStore, tmp_path: Path) -> None:
    directory = tmp_path / "archives"
    directory.mkdir()
    path = directory / "app.tar.gz"
    path.write_bytes(pack(image([tar(Entry("file", b"x"))]).oci_layout("app:v1"), "gzip"))
    directory.chmod(0o500)
    assert import_archive(store, path)[0].tags == ("docker.io/library/app:v1",)
    assert [entry.name for entry in directory.iterdir()] == ["app.tar.gz"]
    assert not list((store.root / "ingest").glob("*.tar"))
