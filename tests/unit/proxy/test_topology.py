"""Which endpoints are chosen: readiness, termination, traffic policy, hints."""

from __future__ import annotations

import pytest

from tiphys.proxy.model import Endpoint, Place, PortKey, ServiceKey, ServicePort
from tiphys.proxy.topology import choose, hinted

HERE = Place("n1", "z1")


def port(**changes: object) -> ServicePort:
    values: dict[str, object] = {"cluster_ip": "10.96.0.1", "port": 80} | changes
    return ServicePort(key=PortKey(ServiceKey("d", "s"), "", "tcp"), **values)  # type: ignore[arg-type]


def at(ip: str, **changes: object) -> Endpoint:
    return Endpoint(ip=ip, port=80, **changes)  # type: ignore[arg-type]


READY_HERE, READY_THERE = at("1", is_local=True), at("2")
DRAINING_HERE = at("3", is_local=True, ready=False, serving=True, terminating=True)
DRAINING_THERE = at("4", ready=False, serving=True, terminating=True)
DEAD = at("5", ready=False, serving=False, terminating=True)
LOCAL = {"external_local": True, "node_port": 30000}


@pytest.mark.parametrize(
    ("service", "endpoints", "cluster", "local"),
    [
        pytest.param(port(), [READY_HERE, READY_THERE, DRAINING_HERE], "12", "", id="only ready ones"),
        pytest.param(port(), [DRAINING_HERE, DRAINING_THERE, DEAD], "34", "", id="none ready: those draining"),
        pytest.param(port(), [DEAD], "", "", id="none answers"),
        pytest.param(port(**LOCAL), [READY_HERE, READY_THERE], "12", "1", id="external local"),
        pytest.param(port(**LOCAL), [DRAINING_HERE, READY_THERE], "2", "3", id="external local: draining here"),
        pytest.param(
            port(external_local=True), [READY_HERE], "1", "", id="policy of what is not external counts nothing"
        ),
        pytest.param(port(internal_local=True), [READY_HERE, READY_THERE], "", "1", id="internal local"),
        pytest.param(port(internal_local=True, node_port=1), [READY_HERE, READY_THERE], "12", "1", id="both"),
    ],
)
def test_choose(service: ServicePort, endpoints: list[Endpoint], cluster: str, local: str) -> None:
    choice = choose(service, endpoints, HERE)
    assert ("".join(e.ip for e in choice.cluster), "".join(e.ip for e in choice.local)) == (cluster, local)
    assert choice.any_anywhere is any(each is not DEAD for each in endpoints)


def zone(ip: str, *names: str) -> Endpoint:
    return at(ip, zones=frozenset(names))


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        pytest.param([zone("1", "z1"), zone("2", "z2")], "1", id="own zone"),
        pytest.param([zone("1", "z3"), zone("2", "z2")], "12", id="nothing in our zone"),
        pytest.param([zone("1", "z1"), at("2")], "12", id="one without a hint: no hints"),
        pytest.param([at("1", nodes=frozenset({"n1"})), at("2", nodes=frozenset({"n2"}))], "1", id="own node"),
        pytest.param([], "", id="none"),
    ],
)
def test_hints(ready: list[Endpoint], expected: str) -> None:
    assert "".join(each.ip for each in hinted(ready, HERE)) == expected
