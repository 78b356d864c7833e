"""The API server is killed and started again while objects change: informers see all of it in order, nothing twice.

Three times in a usual run; TIPHYS_CLIENT_RESTARTS says how often otherwise. Clients that are no Python packages run
where they are found: node with @kubernetes/client-node in the directory TIPHYS_NODE_PROJECT, a program of client-go as
TIPHYS_CLIENT_GO.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.server import RestartableServer

RESTARTS = int(os.environ.get("TIPHYS_CLIENT_RESTARTS", "3"))
WRITES = 12  # between two restarts
PROGRAMS = Path(__file__).parent / "informers"
PYTHON = {
    "kubernetes": "official.py",
    "kubernetes_asyncio": "list_and_watch.py",
    "lightkube": "light.py",
    "kr8s": "kr8s_watch.py",
}


@pytest.fixture(params=[*PYTHON, "client-go", "@kubernetes/client-node"])
def argv(request: pytest.FixtureRequest) -> list[str]:
    """How a client's informer is started; skips the test where it is not installed."""
    client = request.param
    if client in PYTHON:
        if importlib.util.find_spec(client) is None:
            pytest.skip(f"{client} is not installed")
        return [sys.executable, str(PROGRAMS / PYTHON[client]), "default"]
    if client == "client-go":
        if "TIPHYS_CLIENT_GO" not in os.environ:
            pytest.skip("TIPHYS_CLIENT_GO names no program")
        return [*os.environ["TIPHYS_CLIENT_GO"].split(), "default"]
    project, node = os.environ.get("TIPHYS_NODE_PROJECT"), os.environ.get("TIPHYS_NODE") or shutil.which("node")
    if not project or not node:
        pytest.skip("TIPHYS_NODE_PROJECT names no directory with @kubernetes/client-node")
    script = Path(project) / "tiphys-informer.mjs"
    shutil.copy(PROGRAMS / "node.mjs", script)
    return [node, str(script), "default"]


MAPS = "/api/v1/namespaces/default/configmaps"


class Writes:
    """ConfigMaps that come, change and go; what the server acknowledged is kept."""

    def __init__(self, server: RestartableServer) -> None:
        self._server = server
        self._made = 0
        self.alive: dict[str, str] = {}  # name → resourceVersion
        self.acknowledged: list[tuple[str, str, str]] = []  # (event, name, resourceVersion)

    def create(self) -> None:
        self._made += 1
        name = f"c{self._made}"
        status, made = self._server.ask("POST", MAPS, {"metadata": {"name": name}, "data": {"n": "0"}})
        assert status == 201, made
        self._note("ADDED", name, made)

    def change(self, name: str) -> None:
        change = {"data": {"n": str(time.monotonic_ns())}}
        status, changed = self._server.ask("PATCH", f"{MAPS}/{name}", change, "application/merge-patch+json")
        assert status == 200, changed
        self._note("MODIFIED", name, changed)

    def delete(self, name: str) -> None:
        status, _ = self._server.ask("DELETE", f"{MAPS}/{name}")
        assert status == 200
        del self.alive[name]
        self.acknowledged.append(("DELETED", name, ""))

    def some(self, count: int) -> None:
        """`count` rounds: one more, the oldest changed, every third time the oldest gone."""
        for turn in range(count):
            self.create()
            oldest = next(iter(self.alive))
            self.change(oldest)
            if turn % 3 == 0:
                self.delete(oldest)

    def _note(self, event: str, name: str, found: dict[str, dict[str, str]]) -> None:
        self.alive[name] = found["metadata"]["resourceVersion"]
        self.acknowledged.append((event, name, self.alive[name]))


def events(file: Path) -> list[tuple[str, str, str]]:
    lines = file.read_text().splitlines(keepends=True)
    seen = [tuple(json.loads(line)) for line in lines if line.endswith("\n")]
    return [one for one in seen if one[1].startswith("c") and one[1][1:].isdecimal()]


def wait_for(file: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while not any(one[1] == name for one in events(file)):
        assert process.poll() is None and time.monotonic() < deadline, f"{name} was not seen"
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestartableServer]:
    found = RestartableServer(tmp_path)
    found.start()
    yield found
    found.kill()


def test_an_informer_outlives_the_server(argv: list[str], server: RestartableServer, tmp_path: Path) -> None:
    writes = Writes(server)
    writes.create()
    seen = tmp_path / "events"
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
    with seen.open("wb") as out, (tmp_path / "informer.log").open("wb") as log:
        informer = subprocess.Popen(argv, stdout=out, stderr=log, env=environment)
    try:
        wait_for(seen, "c1", informer)
        for _ in range(RESTARTS):
            writes.some(WRITES)
            server.kill()
            server.start()
            writes.some(1)
        writes.create()
        wait_for(seen, next(reversed(writes.alive)), informer)
    finally:
        informer.kill()
        informer.wait()
    check(events(seen), writes)


def check(found: list[tuple[str, str, str]], writes: Writes) -> None:
    """Nothing twice, nothing out of order, every object as it ended; the last of each object's writes was seen."""
    twice = [one for one, count in Counter(one for one in found if one[0] != "DELETED").items() if count > 1]
    assert not twice
    assert [one for one, count in Counter(one[1] for one in found if one[0] == "DELETED").items() if count > 1] == []
    ended: dict[str, str] = {}
    for kind, name, revision in found:
        assert kind == "DELETED" or int(revision) > int(ended.get(name) or 0)
        if kind == "DELETED":
            ended.pop(name, None)
        else:
            ended[name] = revision
    assert ended == writes.alive
    lost = {one[:2] for one in writes.acknowledged} - {one[:2] for one in found}
    missed = len({one for one in writes.acknowledged if one[0] != "DELETED"} - set(found))
    print(f"{len(found)} events, {len(writes.acknowledged)} writes, {missed} overtaken, {len(lost)} never seen: {lost}")
