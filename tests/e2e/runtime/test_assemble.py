"""Images put together from this machine's files run."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.runtime.harness import Client
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.images.assemble import ensure_busybox, ensure_pause
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.images.system import ensure_system, system_image_name


async def test_the_system_image(cri_client: Client, base: Path) -> None:
    image = ensure_system(ImageStore(base / "images"), packages=("aiohttp", "cryptography", "dnslib", "msgspec"))

    def as_nobody(config: cri.ContainerConfig) -> None:
        config.image.image = system_image_name()
        config.linux.security_context.run_as_user.value = 65534
        config.linux.security_context.readonly_rootfs = True

    script = "import aiohttp, cryptography.x509, dnslib, msgspec, sqlite3, ssl, tiphys, os; print(os.getuid(), 'fine')"
    sandbox = await cri_client.sandbox()
    assert await cri_client.output(sandbox, "python3", "-c", script, edit=as_nobody) == "65534 fine"
    assert image.pinned


async def test_made_once(base: Path) -> None:
    store = ImageStore(base / "images")
    before = sorted(store.images(), key=lambda image: image.id)
    ensure_busybox(store)
    ensure_pause(store)
    assert sorted(store.images(), key=lambda image: image.id) == before
    assert {"docker.io/library/busybox:1.37", "registry.k8s.io/pause:3.10.1"} <= {
        tag for image in before for tag in image.tags
    }
