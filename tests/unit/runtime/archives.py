"""Layers and images as files, built in memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from tiphys.runtime.linux import architecture


@dataclass(frozen=True)
class Entry:
    """A member of a layer."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    device: tuple[int, int] = (0, 0)


def tar(*entries: Entry) -> bytes:
    """An uncompressed archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.type, member.mode, member.uid, member.linkname = entry.kind, entry.mode, entry.uid, entry.link
            member.size, member.mtime = len(entry.content), 1_000_000
            member.devmajor, member.devminor = entry.device
            member.pax_headers = dict(entry.headers)
            archive.addfile(member, io.BytesIO(entry.content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data)
    return zstandard.compress(data) if how == "zstd" else data


@dataclass(frozen=True)
class ImageFiles:
    """An image as blobs by digest, with the digest of its manifest."""

    blobs: dict[str, bytes]
    manifest: str
    config: str

    def oci_layout(self, name: str = "") -> bytes:
        """Packed as an OCI layout."""
        entry: dict[str, Any] = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.manifest,
            "size": len(self.blobs[self.manifest]),
        }
        if name:
            entry["annotations"] = {"io.containerd.image.name": name}
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        files = [Entry(f"blobs/{key.replace(':', '/')}", data) for key, data in self.blobs.items()]
        return tar(Entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), Entry("index.json", index), *files)


def image(layers: Sequence[bytes], *, how: str = "gzip", config: dict[str, Any] | None = None) -> ImageFiles:
    """An OCI image of these uncompressed layers."""
    packed = [pack(layer, how) for layer in layers]
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[how]
    document = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(document),
                "size": len(document),
            },
            "layers": [
                {
                    "mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}",
                    "digest": digest(data),
                    "size": len(data),
                }
                for data in packed
            ],
        }
    ).encode()
    blobs = {digest(data): data for data in (*packed, document, manifest)}
    return ImageFiles(blobs, digest(manifest), digest(document))
