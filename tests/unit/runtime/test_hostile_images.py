"""Archives and documents made to hurt: an error that says so, or an image; never anything outside the directory."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.runtime.archives import Entry, digest, image, tar
from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.images.archive import ArchiveError, import_archive
from tiphys.runtime.images.config import ImageConfig, MalformedDocument
from tiphys.runtime.images.layers import LayerError, unpack
from tiphys.runtime.images.pull import Descriptor, choose_platform, decode_manifest
from tiphys.runtime.images.reference import InvalidReference, parse
from tiphys.runtime.images.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers are owned by whom they say: needs root")

EXAMPLES = int(os.environ.get("TIPHYS_TEST_EXAMPLES", "60"))
few = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

NAMES = st.lists(
    st.sampled_from(["a", "b", "d", "..", ".", "", ".wh.a", ".wh..wh..opq", ".wh.", ".wh..", "x" * 300, "é", "a\nb"]),
    min_size=1,
    max_size=5,
).map("/".join)
TARGETS = st.one_of(NAMES, NAMES.map(lambda name: f"/{name}"), st.sampled_from(["/etc/passwd", "../../../outside", ""]))
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ]
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(KINDS)
    return Entry(
        draw(NAMES),
        draw(st.binary(max_size=20)) if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else b"",
        kind=kind,
        link=draw(TARGETS) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "",
        mode=draw(st.sampled_from([0, 0o644, 0o4755, 0o7777, 0o777777])),
        uid=draw(st.sampled_from([0, 1000, 2**31, 2**32, 2**62])),
        headers=draw(st.sampled_from([(), (("mtime", "1e300"),), (("SCHILY.xattr.user.a", "b" * 70000),)])),
        device=draw(st.sampled_from([(0, 0), (1, 3), (2**20, 2**20)])),
    )


@contextmanager
def guarded() -> Iterator[tuple[Path, Path]]:
    """(an archive's path, an empty directory); everything around the directory must be as before at the end."""
    root = Path(tempfile.mkdtemp(prefix="tph-test-"))
    directory = root / "in" / "layer"
    directory.mkdir(parents=True)
    (root / "outside").mkdir()
    (root / "outside" / "file").write_text("untouched")
    try:
        yield root / "archive", directory
        assert sorted(os.listdir(root / "outside")) == ["file"]
        assert (root / "outside" / "file").read_text() == "untouched"
        assert os.listdir(root / "in") == ["layer"]
        assert set(os.listdir(root)) <= {"archive", "in", "outside"}
    finally:
        shutil.rmtree(root)


@few
@given(st.lists(entries(), max_size=8))
def test_any_layer_is_written_inside_or_refused(found: list[Entry]) -> None:
    before = os.stat("/etc/passwd")
    with guarded() as (archive, directory):
        archive.write_bytes(tar(*found))
        with suppress(LayerError):
            unpack(archive, directory)
    after = os.stat("/etc/passwd")
    assert (before.st_mtime_ns, before.st_nlink, before.st_mode) == (after.st_mtime_ns, after.st_nlink, after.st_mode)


@few
@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_damaged_layers_are_refused_or_read(found: list[Entry], data: st.DataObject) -> None:
    whole = bytearray(tar(*found))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    packed = gzip.compress(bytes(whole)) if data.draw(st.booleans()) else bytes(whole)
    with guarded() as (archive, directory):
        archive.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
        with suppress(LayerError):
            unpack(archive, directory)


def test_a_file_that_cannot_fit_is_refused_before_it_is_written() -> None:
    member = tarfile.TarInfo("bomb")
    member.size = 1 << 60
    with guarded() as (archive, directory):
        archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(LayerError, match="no space left on device"):
            unpack(archive, directory)
        assert os.listdir(directory) == []


def test_a_sparse_bomb_is_refused_before_it_is_written() -> None:
    headers = (("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", str(1 << 50)))
    entry = Entry("bomb", b"0\n".ljust(512, b"\0"), headers=(*headers, ("GNU.sparse.name", "bomb")))
    with guarded() as (archive, directory):
        archive.write_bytes(tar(entry))
        with pytest.raises(LayerError, match="no space left on device"):
            unpack(archive, directory)


def test_a_tree_too_deep_to_walk() -> None:
    deep = "/".join("d" * 3000)
    with guarded() as (archive, directory):
        archive.write_bytes(tar(Entry(deep, kind=tarfile.DIRTYPE), Entry("d", b"a file in its place")))
        with pytest.raises(LayerError):
            unpack(archive, directory)


# -- documents ---------------------------------------------------------------------------------------

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ODD = st.one_of(JSON, st.just(digest(b"x")), st.just(f"sha256:{'/' * 64}"), st.just("sha256:../../../../outside"))


def document(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ODD))


CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "config": st.one_of(ODD, document("Entrypoint", "Cmd", "Env", "User", "Volumes", "Labels", "WorkingDir")),
        "rootfs": st.one_of(ODD, document("diff_ids", "type")),
    },
)
DESCRIPTOR = st.one_of(ODD, document("digest", "size", "mediaType", "platform", "annotations"))


@few
@given(CONFIG)
def test_any_configuration_is_read_or_refused(found: dict[str, Any]) -> None:
    try:
        config = ImageConfig.parse(found)
    except MalformedDocument:
        return
    assert all(isinstance(text, str) for text in (*config.cmd, *config.env, *config.diff_ids, config.user))


@few
@given(st.one_of(JSON, st.lists(DESCRIPTOR, max_size=3)))
def test_any_manifest_is_read_or_refused(found: Any) -> None:
    try:
        manifest = decode_manifest(json.dumps(found).encode())
        choose_platform([entry for entry in [manifest] if isinstance(entry, dict)], parse("a:1"))
    except (RuntimeFault, MalformedDocument):
        pass
    if isinstance(found, dict):
        try:
            assert Descriptor.parse(found).digest.removeprefix("sha256:").isalnum()
        except MalformedDocument:
            pass


@few
@given(
    st.one_of(ODD, st.lists(st.one_of(ODD, document("Config", "RepoTags", "Layers")), max_size=2)),
    st.one_of(ODD, st.fixed_dictionaries({"manifests": st.lists(DESCRIPTOR, max_size=2)})),
    CONFIG,
    st.booleans(),
)
def test_any_archive_is_taken_or_refused(docker: Any, index: Any, config: Any, oci: bool) -> None:
    files = [Entry("config.json", json.dumps(config).encode())]
    files.append(
        Entry("index.json", json.dumps(index).encode()) if oci else Entry("manifest.json", json.dumps(docker).encode())
    )
    with guarded() as (archive, directory):
        archive.write_bytes(tar(*files))
        store = ImageStore(directory)
        with suppress(ArchiveError, LayerError, InvalidReference):
            import_archive(store, archive)
        assert not list((directory / "ingest").glob("*"))


@pytest.mark.parametrize(
    "name", ["../../../outside/file", "/etc/passwd", "blobs/sha256/../../../../outside/file", "config.json/../../x"]
)
def test_an_archives_parts_are_in_the_archive(name: str) -> None:
    with guarded() as (archive, directory):
        manifest = [{"Config": name, "Layers": [name], "RepoTags": ["a:1"]}]
        archive.write_bytes(tar(Entry("manifest.json", json.dumps(manifest).encode())))
        with pytest.raises(ArchiveError, match="is missing in the archive"):
            import_archive(ImageStore(directory), archive)


def test_a_directory_as_archive_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    given = tmp_path / "given"
    given.mkdir()
    (given / "link").symlink_to(tmp_path / "secret")
    for name in ("../secret", "link"):
        (given / "manifest.json").write_text(json.dumps([{"Config": name, "Layers": []}]))
        with pytest.raises(ArchiveError, match="leads out of"):
            import_archive(ImageStore(tmp_path / "store"), given)


def test_layers_that_are_not_what_the_configuration_names(tmp_path: Path) -> None:
    files = image([tar(Entry("file", b"one"))], how="none")
    path = tmp_path / "wrong.tar"
    path.write_bytes(files.oci_layout("a:1").replace(b"one", b"two"))
    store = ImageStore(tmp_path / "store")
    with pytest.raises(LayerError, match="wrong diff id"):
        import_archive(store, path)
    assert store.images() == [] and not list((tmp_path / "store" / "layers").glob("*"))
