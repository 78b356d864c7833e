"""Images from registries, Dockerfiles and archives, from `tiphys image` or a kubelet's pull to a running pod."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.harness import Cluster, tiphys, until
from tests.e2e.runtime.registry import BINARY, PASSWORD, USER, push, registry
from tests.unit.runtime.archives import Entry, ImageFiles, image, tar

needs_registry = pytest.mark.skipif(BINARY is None, reason="needs docker-registry")


def sleeper(text: str) -> ImageFiles:
    """An image of one program, which prints a text and sleeps."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    layer = tar(Entry("bin/sh", Path(busybox).read_bytes(), mode=0o755), Entry("text", text.encode()))
    return image([layer], config={"Cmd": ["/bin/sh", "-c", "read line < /text; echo $line; exec sleep 1000"]})


@pytest.fixture
async def host() -> AsyncIterator[str]:
    async with registry() as address:
        yield address


@pytest.fixture
async def private_host() -> AsyncIterator[str]:
    async with registry(private=True) as address:
        yield address


def run_pod(cluster: Cluster, namespace: str, image_name: str, policy: str = "Always", **spec: Any) -> None:
    """A pod `p` of one container."""
    container = {"name": "c", "image": image_name, "imagePullPolicy": policy}
    spec = {"terminationGracePeriodSeconds": 0, **spec, "containers": [container]}
    metadata = {"name": "p", "namespace": namespace}
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))


def waiting(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Why the container of `p` does not run; empty when it does."""
    pod = cluster.get("pod", "p", "-n", namespace)
    found: dict[str, str] = {}
    for status in pod["status"].get("containerStatuses", ()):
        found = status["state"].get("waiting", {})
    return found


def until_waiting(cluster: Cluster, namespace: str, reason: str) -> str:
    """The message the container waits with, once it waits for this reason."""

    def message() -> str:
        found = waiting(cluster, namespace)
        assert found.get("reason") == reason, found
        return found["message"]

    return until(message, reason)


def events(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.get("events", "-n", namespace, "--field-selector=involvedObject.name=p")["items"]
    return [f"{event['type']} {event['reason']}: {event['message']}" for event in found]


def images(cluster: Cluster, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        tiphys("image", "list", "--name", cluster.name, "-o", "json", *words).stdout
    )
    return found


def tags(cluster: Cluster, *words: str) -> set[str]:
    return {tag for entry in images(cluster, *words) for tag in entry["tags"]}


# -- registries ----------------------------------------------------------------------------------


@needs_registry
def test_a_node_pulls_from_the_machines_loopback(cluster: Cluster, namespace: str, host: str) -> None:
    files = sleeper("from the registry")
    asyncio.run(push(host, "team/app", "v1", files))
    run_pod(cluster, namespace, f"{host}/team/app:v1")
    cluster.wait_ready("p", namespace)
    assert cluster.kubectl("logs", "p", "-n", namespace) == "from the registry\n"
    (status,) = cluster.get("pod", "p", "-n", namespace)["status"]["containerStatuses"]
    assert status["image"] == f"{host}/team/app:v1"
    assert status["imageID"] == f"{host}/team/app@{files.manifest}"
    texts = events(cluster, namespace)
    assert f'Normal Pulling: Pulling image "{host}/team/app:v1"' in texts
    (pulled,) = [text for text in texts if text.startswith("Normal Pulled")]
    assert pulled.startswith(f'Normal Pulled: Successfully pulled image "{host}/team/app:v1" in ')
    assert "including waiting). Image size: " in pulled


@needs_registry
def test_an_unknown_image(cluster: Cluster, namespace: str, host: str) -> None:
    name = f"{host}/team/nothing:v1"
    run_pod(cluster, namespace, name)
    problem = (
        f'rpc error: code = NotFound desc = failed to pull and unpack image "{name}": '
        f'failed to resolve reference "{name}": {name}: not found'
    )
    backing_off = until_waiting(cluster, namespace, "ImagePullBackOff")
    assert backing_off == f'Back-off pulling image "{name}": ErrImagePull: {problem}'
    texts = until(lambda: len(found := events(cluster, namespace)) >= 5 and found, "events")
    assert f'Warning Failed: Failed to pull image "{name}": {problem}' in texts
    assert "Warning Failed: Error: ErrImagePull" in texts
    assert f'Normal BackOff: Back-off pulling image "{name}"' in texts
    assert "Warning Failed: Error: ImagePullBackOff" in texts
    # What was missing appears: the next try finds it.
    asyncio.run(push(host, "team/nothing", "v1", sleeper("late")))
    cluster.wait_ready("p", namespace)


@needs_registry
def test_a_private_registry(cluster: Cluster, namespace: str, private_host: str) -> None:
    name = f"{private_host}/team/secret:v1"
    asyncio.run(push(private_host, "team/secret", "v1", sleeper("told"), private=True))
    run_pod(cluster, namespace, name)
    assert "pull access denied" in until_waiting(cluster, namespace, "ImagePullBackOff")
    cluster.kubectl("delete", "pod", "p", "-n", namespace)
    cluster.kubectl(
        *("create", "secret", "docker-registry", "login", "-n", namespace, f"--docker-server={private_host}"),
        *(f"--docker-username={USER}", f"--docker-password={PASSWORD}"),
    )
    run_pod(cluster, namespace, name, imagePullSecrets=[{"name": "login"}])
    cluster.wait_ready("p", namespace)
    assert cluster.kubectl("logs", "p", "-n", namespace) == "told\n"


@needs_registry
def test_image_pull(cluster: Cluster, namespace: str, private_host: str) -> None:
    name = f"{private_host}/team/pulled:v1"
    asyncio.run(push(private_host, "team/pulled", "v1", sleeper("pulled"), private=True))
    refused = tiphys("image", "pull", name, "--name", cluster.name, check=False)
    assert refused.returncode == 1
    assert "pull access denied, repository does not exist or may require authorization" in refused.stderr
    login = ("--username", USER, "--password", PASSWORD)
    assert f"pulled {name} (sha256:" in tiphys("image", "pull", name, "--name", cluster.name, *login).stdout
    run_pod(cluster, namespace, name, "Never")
    cluster.wait_ready("p", namespace)
    assert f"removed {name}" in tiphys("image", "remove", name, "--name", cluster.name).stdout
    assert name not in tags(cluster)
    # What a container stands on stays until it goes.
    assert cluster.kubectl("exec", "p", "-n", namespace, "--", "/bin/sh", "-c", "read x < /text; echo $x") == "pulled\n"


# -- Dockerfiles and archives --------------------------------------------------------------------

DOCKERFILE = """\
FROM busybox
ARG WHO=nobody
RUN echo "for $WHO" > /made
COPY inner /
CMD ["sh", "-c", "cat /made /file; exec sleep 1000"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "inner").mkdir(parents=True)
    (directory / "inner/file").write_text("copied\n")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def build(cluster: Cluster, context: Path, name: str, *words: str, check: bool = True) -> tuple[str, str]:
    """Standard output and standard error of `tiphys image build`."""
    done = tiphys("image", "build", str(context), "-t", name, "--name", cluster.name, *words, check=check)
    return done.stdout, done.stderr


@pytest.mark.parametrize("policy", ["Never", "IfNotPresent", "Always"])
def test_build_and_run(cluster: Cluster, namespace: str, context: Path, policy: str) -> None:
    """Also with Always: nobody listens where the name says the registry is."""
    name = "127.0.0.1:1/team/built:v1"
    out, _ = build(cluster, context, name, "--build-arg", "WHO=you")
    assert "COPY inner /\n" in out
    assert f"built {name} (sha256:" in out
    run_pod(cluster, namespace, name, policy)
    cluster.wait_ready("p", namespace)
    assert cluster.kubectl("logs", "p", "-n", namespace) == "for you\ncopied\n"
    first, second = (node["name"] for node in cluster.status()["nodes"])
    assert name in tags(cluster, "--node", first) & tags(cluster, "--node", second) & tags(cluster)


@pytest.mark.parametrize("again", [False, True], ids=["running", "stopped"])
def test_import_and_build_whether_it_runs_or_not(tmp_path: Path, context: Path, again: bool) -> None:
    """A cluster with one node, and its store between `down` and `up`."""
    other = Cluster("im-stopped")
    archive = tmp_path / "image.tar"
    archive.write_bytes(sleeper("imported").oci_layout("docker.io/team/imported:v1"))
    other.down("--purge")
    try:
        other.up("--nodes", "1", "--api-port", "16790")
        if again:
            other.down()
        done = tiphys("image", "import", str(archive), "--name", other.name)
        assert "imported docker.io/team/imported:v1 (sha256:" in done.stdout
        build(other, context, "built:v1")
        if again:
            other.up()
        for name, expected in (("team/imported:v1", "imported\n"), ("built:v1", "for nobody\ncopied\n")):
            run_pod(other, "default", name, "IfNotPresent")
            other.wait_ready("p")
            assert other.kubectl("logs", "p") == expected
            other.kubectl("delete", "pod", "p")
    finally:
        other.down("--purge")
    until(lambda: not list(Path("/sys/fs/cgroup").glob("*/tiphys-build*")), "the end of every build's cgroup")


@pytest.mark.parametrize(
    ("dockerfile", "problem"),
    [
        ("FROM busybox\nFOO x\n", "dockerfile parse error on line 2: unknown instruction: FOO"),
        ("FROM busybox\n\nRUN echo why; exit 3\n", 'line 3: process "/bin/sh -c echo why; exit 3" did not complete'),
        ("FROM busybox\nCOPY nothing /\n", 'line 2: failed to compute cache key: "/nothing": not found'),
        ("FROM 127.0.0.1:1/base\n", "line 1: failed to pull and unpack image"),
    ],
    ids=["unknown instruction", "failing command", "missing file", "missing base"],
)
def test_what_cannot_be_built(cluster: Cluster, context: Path, dockerfile: str, problem: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    before = images(cluster)
    _, error = build(cluster, context, "never:v1", check=False)
    assert error.startswith(f"tiphys image: {problem}")
    assert error.count("\n") == 1
    assert images(cluster) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("import", "/no/such.tar"), "/no/such.tar: no such file"),
        (("import", "/etc/passwd"), "/etc/passwd is not an image archive"),
        (("build", "/no/such", "-t", "x"), "/no/such: no such directory"),
        (("build", "/tmp", "-t", "X Y"), 'failed to parse reference "X Y": invalid reference format'),
        (("pull", "127.0.0.1:1/app"), "dial tcp 127.0.0.1:1: connect: connection refused"),
        (("pull", "no-such-host.invalid/app"), "lookup no-such-host.invalid: no such host"),
        (("remove", "nothing:v9"), "nothing:v9: no such image"),
        (("remove", "registry.k8s.io/pause:3.10.1"), "the cluster itself runs on this image"),
        (("list", "--node", "nobody"), 'there is no node "nobody"'),
        (("list", "--name", "nowhere"), 'there is no cluster "nowhere"; `tiphys up` makes one'),
        (("list", "--colour"), "unknown flag: --colour"),
        (("paint",), 'unknown action "paint"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_line(cluster: Cluster, words: tuple[str, ...], problem: str) -> None:
    done = tiphys("image", words[0], "--name", cluster.name, *words[1:], check=False)
    assert done.returncode != 0
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
