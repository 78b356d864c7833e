"""The specification's runner with small real plugins: what they are given, in which order, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tiphys.network.cni import NetworkError, PodNetwork, PortMapping
from tiphys.network.cni.config import find, load
from tiphys.network.cni.runner import Runner

PLUGIN = """#!/bin/sh
in=$(cat)
echo "$CNI_COMMAND $0 $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS" >> "$TPH_TEST_LOG"
echo "$in" >> "$TPH_TEST_LOG"
"""
ADDS = """case $CNI_COMMAND in ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}],
"interfaces":[{"name":"eth0","mac":"0a:00:00:00:00:05","sandbox":"/x"}]}';; esac
"""
FAILS = """case $CNI_COMMAND in ADD)
echo '{"cniVersion":"1.0.0","code":11,"msg":"no luck","details":"today"}'; exit 1;; esac
"""
RUBBISH = 'case $CNI_COMMAND in ADD) echo "hello world";; esac\n'
HANGS = "case $CNI_COMMAND in ADD) exec sleep 60;; esac\n"
POD = PodNetwork(
    sandbox_id="s1",
    netns_path="/run/netns/none",
    name="web",
    namespace="default",
    uid="u1",
    port_mappings=(PortMapping("TCP", 80, 8080),),
    ingress_bandwidth=1_000_000,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TPH_TEST_LOG", str(tmp_path / "log"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def runner(place: Path, *bodies: str, version: str = "1.1.0", timeout: float = 10.0) -> Runner:
    plugins = []
    for number, body in enumerate(bodies):
        path = place / "bin" / f"p{number}"
        path.write_text(PLUGIN + body)
        path.chmod(0o755)
        plugins.append({"type": f"p{number}", "capabilities": {"portMappings": number == 1}})
    config = place / "net.d" / "10-test.conflist"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"cniVersion": version, "name": "test", "plugins": plugins}))
    found = find(config.parent)
    assert found == config
    return Runner(load(config), [place / "bin"], place / "results", timeout=timeout)


def calls(place: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = (place / "log").read_text().splitlines()
    return [
        (" ".join((head.split()[0], Path(head.split()[1]).name)), json.loads(body))
        for head, body in zip(lines[::2], lines[1::2], strict=True)
    ]


async def test_chain_forward_and_back(place: Path) -> None:
    network = runner(place, ADDS, ADDS)
    result = await network.add(POD)
    assert (result.ips, result.gateway, result.mac) == (("10.9.0.5",), "10.9.0.1", "0a:00:00:00:00:05")
    await network.check(POD)
    await network.status()
    await network.delete(POD)
    seen = calls(place)
    order = "ADD p0,ADD p1,CHECK p0,CHECK p1,STATUS p0,STATUS p1,DEL p1,DEL p0"
    assert ",".join(name for name, _ in seen) == order
    first, second = seen[0][1], seen[1][1]
    assert first == {"cniVersion": "1.1.0", "name": "test", "type": "p0"}
    assert second["prevResult"]["ips"][0]["address"] == "10.9.0.5/24"
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    assert all("prevResult" in body for name, body in seen if name.startswith(("CHECK", "DEL")))
    assert list((place / "results").iterdir()) == []
    assert "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" in (place / "log").read_text()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(FAILS, "plugin type='p1' failed (add): no luck: today", id="says so"),
        pytest.param(RUBBISH, "its output is not JSON: 'hello world", id="rubbish"),
        pytest.param(HANGS, "no answer in 0.5 s", id="hangs"),
    ],
)
async def test_failures_are_told_and_undone(place: Path, body: str, message: str) -> None:
    network = runner(place, ADDS, body, timeout=0.5)
    with pytest.raises(NetworkError) as caught:
        await network.add(POD)
    assert message in str(caught.value)
    assert [name for name, _ in calls(place)][-2:] == ["DEL p1", "DEL p0"]
    assert list((place / "results").iterdir()) == []


async def test_gc_deletes_what_is_kept_and_tells_what_is_valid(place: Path) -> None:
    network = runner(place, ADDS)
    await network.add(POD)
    assert await network.gc({"other"}) == ["s1"]
    names = [name for name, _ in calls(place)]
    assert names == ["ADD p0", "DEL p0", "GC p0"]
    valid = [{"containerID": "other", "ifname": "eth0"}]
    assert calls(place)[-1][1]["cni.dev/valid-attachments"] == valid


async def test_missing_plugin_and_damaged_configuration(place: Path) -> None:
    network = runner(place, ADDS)
    (place / "bin" / "p0").unlink()
    with pytest.raises(NetworkError, match='failed to find plugin "p0" in path'):
        await network.status()
    bad = place / "net.d" / "00-bad.conf"
    for text, word in (
        ("{", "error parsing"),
        ('{"cniVersion":"9.0.0","name":"x","type":"y"}', "incompatible CNI versions"),
    ):
        bad.write_text(text)
        with pytest.raises(NetworkError, match=word):
            load(bad)
