"""`tiphys image`: import, build, pull, list and remove images in the store that all nodes of a cluster share.

Works on the files, under the store's own locks: it makes no difference whether the cluster runs. What is
entered here can be used by every node at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from tiphys.api.cri import api_pb2 as cri
from tiphys.api.cri.api_pb2_grpc import ImageServiceStub
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.components import runtime_endpoint
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.progress import Progress
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser
from tiphys.cmd.status import table
from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.images.archive import ArchiveError, import_archive
from tiphys.runtime.images.assemble import PAUSE_IMAGE
from tiphys.runtime.images.build import build
from tiphys.runtime.images.dockerfile import DockerfileError
from tiphys.runtime.images.layers import LayerError
from tiphys.runtime.images.pull import Credentials, Puller
from tiphys.runtime.images.reference import InvalidReference, parse
from tiphys.runtime.images.stage import BuildError
from tiphys.runtime.images.store import Image, ImageStore
from tiphys.runtime.images.system import system_image_name
from tiphys.runtime.options import RegistryOptions

ANSWER_WITHIN: Final = 10.0  # seconds for a node's runtime to list its images


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys image ACTION …`."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        actions = "\n".join(f"  {name:<10}{what}" for name, (_, what) in ACTIONS.items())
        print(f"Usage: tiphys image ACTION [flags]\n\n{actions}\n\nUse 'tiphys image ACTION --help' for its flags.")
        return 0
    if words[0] not in ACTIONS:
        raise UsageError(f'unknown action "{words[0]}": there are {", ".join(ACTIONS)}')
    work, what = ACTIONS[words[0]]
    flags = FlagParser(f"image {words[0]}", f"{what[0].upper()}{what[1:]}.")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    with _one_line():
        work(flags, words[1:])
    return 0


@contextmanager
def _one_line() -> Iterator[None]:
    """Whatever is wrong with an image, a file or a registry is a CommandError in the words of who found it."""
    try:
        yield
    except (ArchiveError, LayerError, BuildError, DockerfileError, InvalidReference, RuntimeFault) as error:
        raise CommandError(str(error)) from error
    except PermissionError as error:
        raise CommandError(f"no permission for {error.filename}; images of nodes belong to root") from error


def _cluster(options: Any) -> tuple[ClusterSpec, Layout]:
    layout = Layout.of(options.name, options.state_dir)
    spec = specs.load(layout.spec)
    if spec is None:
        raise CommandError(f'there is no cluster "{options.name}"; `tiphys up` makes one')
    if spec.mode != "cluster":
        raise CommandError(f'cluster "{options.name}" was made without nodes ({spec.mode}), so it has no images')
    return spec, layout


def _store(options: Any) -> ImageStore:
    spec, layout = _cluster(options)
    if spec.container_runtime_endpoint:
        raise CommandError(
            f'the images of cluster "{options.name}" are kept by {spec.container_runtime_endpoint}: use its own tools'
        )
    return ImageStore(layout.images)


# -- import --------------------------------------------------------------------------------------


def _import(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="docker save archive or OCI layout")
    flags.add_argument("-t", "--tag", action="append", default=[], help="a further name for the image")
    options = flags.parse(words)
    store = _store(options)
    progress = Progress()
    for path in options.files:
        if not path.exists():
            raise CommandError(f"{path}: no such file")
        progress.doing(f"importing {path}")
        for image in import_archive(store, path, names=options.tag):
            progress.line(f"imported {_describe(image)}")
        progress.end()


# -- build ---------------------------------------------------------------------------------------


def _build(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("directory", type=Path, metavar="DIR", help="the build context")
    flags.add_argument("-t", "--tag", action="append", required=True, metavar="NAME", help="name of the image")
    flags.add_argument("-f", "--file", type=Path, help="the Dockerfile, if not DIR/Dockerfile")
    flags.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="value of an ARG")
    flags.add_argument("--target", default="", help="stage to build, if not the last")
    _registry_flags(flags)
    options = flags.parse(words)
    store = _store(options)
    if os.geteuid() != 0:
        raise CommandError("a build mounts file systems and runs containers, and that needs root: run it with sudo")
    if not options.directory.is_dir():
        raise CommandError(f"{options.directory}: no such directory")
    progress = Progress()

    def fetch(name: str) -> Image:
        """A base image that is not here yet."""
        try:
            return _pulled(store, options, name, progress)
        except RuntimeFault as error:
            raise BuildError(f"{error}; import the image, or pull it where a registry can be reached") from error

    image = build(
        store,
        options.directory,
        options.tag,
        dockerfile=options.file,
        arguments=_build_arguments(options.build_arg),
        target=options.target,
        say=progress.line,
        fetch=fetch,
    )
    progress.line(f"built {_describe(image)}")


def _build_arguments(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`; a name alone takes its value from the environment, as with Docker."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if equals or name in os.environ:
            found[name] = value if equals else os.environ[name]
    return found


# -- pull ----------------------------------------------------------------------------------------


def _registry_flags(flags: FlagParser) -> None:
    flags.add_argument("--username", default="", help="user at the registry")
    flags.add_argument("--password", default="", help="password at the registry")
    flags.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    flags.add_argument("--certs-dir", type=Path, help="directory of HOST/ca.crt files")
    flags.add_argument(
        "--insecure-registry", action="append", default=[], metavar="HOST", help="may lack TLS or a valid certificate"
    )
    flags.add_argument(
        "--mirror", action="append", default=[], type=_mirror, metavar="HOST=URL", help="asked before the registry HOST"
    )


def _mirror(text: str) -> tuple[str, str]:
    host, equals, url = text.partition("=")
    if not equals or not url.startswith(("http://", "https://")):
        raise UsageError(f'"{text}" is not HOST=URL, as docker.io=http://127.0.0.1:5000')
    return host, url


def _registry_options(options: Any) -> RegistryOptions:
    mirrors: dict[str, tuple[str, ...]] = {}
    for host, url in options.mirror:
        mirrors[host] = (*mirrors.get(host, ()), url)
    more = {"certs_dir": options.certs_dir} if options.certs_dir is not None else {}
    return RegistryOptions(mirrors=mirrors, insecure=frozenset(options.insecure_registry), **more)


def _credentials(options: Any) -> Credentials:
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else options.password
    return Credentials(username=options.username, password=password)


def _pull(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("images", nargs="+", metavar="NAME", help="a reference, as docker.io/library/nginx:1.27")
    _registry_flags(flags)
    options = flags.parse(words)
    store = _store(options)
    progress = Progress()
    for name in options.images:
        image = _pulled(store, options, name, progress)
        progress.line(f"pulled {parse(name)} ({image.id[:19]}, {_size(image.size)})")


def _pulled(store: ImageStore, options: Any, name: str, progress: Progress) -> Image:
    reference = parse(name)
    received = 0

    def count(size: int) -> None:
        nonlocal received
        before, received = received, received + size
        if before >> 18 != received >> 18:  # a quarter of a mebibyte
            progress.doing(f"pulling {reference}: {_size(received)}")

    puller = Puller(store, _registry_options(options), asyncio.to_thread, count)
    progress.doing(f"pulling {reference}")
    try:
        return asyncio.run(puller.pull(reference, _credentials(options)))
    finally:
        progress.end()


# -- list and remove -----------------------------------------------------------------------------


def _list(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("--node", help="ask the runtime of this node, instead of reading the store")
    flags.add_argument("-o", "--output", choices=("json",), help="json for programs")
    options = flags.parse(words)
    rows = _of_node(options) if options.node else _of_store(options)
    rows.sort(key=lambda row: (row["tags"] or row["digests"] or [row["id"]])[0])
    if options.output == "json":
        print(json.dumps(rows, indent=2))
        return
    cells = [["IMAGE", "TAG", "ID", "SIZE"]]
    for row in rows:
        short, size = row["id"].partition(":")[2][:13], _size(row["size"])
        names = [tag.rpartition(":") for tag in row["tags"]] or [(*_untagged(row["digests"]),)]
        cells += [[repository, tag, short, size] for repository, _, tag in names]
    print("\n".join(table(cells)))


def _untagged(digests: Sequence[str]) -> tuple[str, str, str]:
    return (digests[0].partition("@")[0] if digests else "<none>", "", "<none>")


def _of_store(options: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": image.id,
            "tags": list(image.tags),
            "digests": list(image.digests),
            "size": image.size,
            "pinned": image.pinned,
        }
        for image in _store(options).images()
    ]


def _of_node(options: Any) -> list[dict[str, Any]]:
    spec, layout = _cluster(options)
    endpoint = runtime_endpoint(spec, layout, spec.node(options.node))
    try:
        images = asyncio.run(_asked(endpoint))
    except grpc.aio.AioRpcError as error:
        raise CommandError(f"the runtime of node {options.node} does not answer: is it running?") from error
    return [
        {
            "id": image.id,
            "tags": list(image.repo_tags),
            "digests": list(image.repo_digests),
            "size": image.size,
            "pinned": image.pinned,
        }
        for image in images
    ]


async def _asked(endpoint: str) -> Sequence[cri.Image]:
    """The images a runtime knows."""
    async with grpc.aio.insecure_channel(endpoint.replace("unix://", "unix:")) as channel:
        answer = await ImageServiceStub(channel).ListImages(cri.ListImagesRequest(), timeout=ANSWER_WITHIN)
        return list(answer.images)


def _remove(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("images", nargs="+", metavar="NAME", help="a reference, or an id to remove all its names")
    options = flags.parse(words)
    store = _store(options)
    needed = {str(parse(PAUSE_IMAGE)), str(parse(system_image_name()))}
    for name in options.images:
        image = store.find(name)
        if image is None:
            raise CommandError(f"{name}: no such image")
        by_id = name.removeprefix("sha256:") == image.id.removeprefix("sha256:")[: len(name.removeprefix("sha256:"))]
        if needed & set(image.tags):
            raise CommandError(f"{name}: the cluster itself runs on this image")
        if by_id or len(image.tags) < 2:
            store.remove(image.id)
        else:
            store.untag(parse(name))
        print(f"removed {name}")
    store.collect()


def _describe(image: Image) -> str:
    return f"{', '.join(image.tags) or 'an image without a name'} ({image.id[:19]}, {_size(image.size)})"


def _size(size: int) -> str:
    """As kubectl users read it: 824 kB, 4.2 MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{(size + 999) // 1000} kB"


ACTIONS: Final[dict[str, tuple[Callable[[FlagParser, Sequence[str]], None], str]]] = {
    "import": (_import, "enter images from `docker save` archives or OCI layouts"),
    "build": (_build, "build an image from a Dockerfile"),
    "pull": (_pull, "get images from a registry"),
    "list": (_list, "show the images that are here"),
    "remove": (_remove, "take images away"),
}
