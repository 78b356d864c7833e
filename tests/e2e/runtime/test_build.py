"""Images built from Dockerfiles, and what runs in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.runtime.harness import Client
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.images.build import build
from tiphys.runtime.images.dockerfile import DockerfileError
from tiphys.runtime.images.stage import BuildError
from tiphys.runtime.images.store import Image, ImageStore


def context(base: Path, dockerfile: str, **files: str) -> Path:
    directory = base / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def built(base: Path, dockerfile: str, arguments: dict[str, str] | None = None, **files: str) -> Image:
    store = ImageStore(base / "images")
    return build(store, context(base, dockerfile, **files), ["app:v1"], arguments=arguments)


async def test_everything_at_once(cri_client: Client, base: Path) -> None:
    image = built(
        base,
        """
        # a comment
        ARG TAG=latest
        FROM busybox:$TAG AS first
        RUN mkdir /made && echo $((6 * 7)) > /made/answer
        WORKDIR /src
        COPY . .

        FROM busybox
        ARG WHO=nobody
        ENV GREETING="hello $WHO" \\
            OTHER=two
        LABEL a=b "c d"="e f"
        WORKDIR /app/sub
        COPY --from=first --chown=33:33 /made /src/dir/ ./
        COPY --chmod=700 file /bin/tool
        USER www-data
        EXPOSE 80 53/udp
        VOLUME /data
        STOPSIGNAL SIGINT
        ENTRYPOINT ["sh", "-c"]
        CMD ["echo $GREETING; pwd; cat answer; ls; id -un; ls -ld /bin/tool"]
        """,
        {"WHO": "you"},
        file="content",
        dir__inner="x",
        dir__skipped="y",
        **{".dockerignore": "dir/skipped\n"},
    )
    config = ImageStore(base / "images").config(image)
    assert config.env[-2:] == ("GREETING=hello you", "OTHER=two")
    assert (config.user, config.stop_signal, config.volumes) == ("www-data", "SIGINT", ("/data",))
    assert config.labels == {"a": "b", "c d": "e f"}

    def edit(request: cri.ContainerConfig) -> None:
        request.image.image = "app:v1"

    output = (await cri_client.output(await cri_client.sandbox(), edit=edit)).split("\n")
    assert output[:6] == ["hello you", "/app/sub", "42", "answer", "inner", "www-data"]
    assert output[6].startswith("-rwx------")


async def test_scratch(base: Path) -> None:
    image = built(base, 'FROM scratch\nCOPY file /\nCMD ["/file"]\n', file="x")
    layer = ImageStore(base / "images").layer(image.layers[0])
    assert [path.name for path in layer.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("dockerfile", "problem"),
    [
        pytest.param("FORM busybox", "unknown instruction: FORM", id="unknown instruction"),
        pytest.param("ENV a=b", "there is no FROM", id="no stage"),
        pytest.param("FROM nothing/here:v9", "docker.io/nothing/here:v9: not found", id="unknown base"),
        pytest.param("FROM busybox\nCOPY missing /", '"/missing": not found', id="missing source"),
        pytest.param("FROM busybox\nCOPY ../../etc/passwd /", '"/etc/passwd": not found', id="out of the context"),
        pytest.param("FROM busybox\nCOPY way/passwd /", "leads out of the build context", id="out through a link"),
        pytest.param("FROM busybox\nADD https://example.com/x /", "reaches no network", id="remote source"),
        pytest.param("FROM busybox\nRUN exit 3", "exit code: 3", id="failing command"),
        pytest.param("FROM busybox\nRUN <<EOF\nx\nEOF", "here-documents", id="here-document"),
        pytest.param("FROM busybox\nCOPY a b c", "must be a directory", id="many sources"),
    ],
)
async def test_what_cannot_be_built(base: Path, dockerfile: str, problem: str) -> None:
    directory = context(base, dockerfile, a="1", b="2")
    os.symlink("/etc", directory / "way")
    store = ImageStore(base / "images")
    with pytest.raises((BuildError, DockerfileError), match=problem):
        build(store, directory, ["app:v1"])
    assert store.find("app:v1") is None
    assert not [path for path in (base / "images/ingest").iterdir() if path.is_dir()]
