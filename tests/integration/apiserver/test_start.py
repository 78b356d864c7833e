"""The order of a start: the port is known before the objects that name it are made."""

from __future__ import annotations

from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.server import ApiServer, Security
from tiphys.cmd.apiserver import cluster_facts, start

from .server import Everyone


async def test_any_free_port_is_the_one_the_kubernetes_service_leads_to() -> None:
    everyone = Everyone()
    options = ServerOptions(port=0, store="memory", advertise_address="192.0.2.10")
    server = ApiServer(options, Security(authenticator=everyone, authorizer=everyone))
    try:
        await start(server)
        ((_, port),) = server.addresses
        assert port > 0
        assert cluster_facts(options, port).port == port
        endpoints = server.reader.get("", "endpoints", ("default", "kubernetes"))
        assert endpoints is not None
        assert endpoints["subsets"][0]["ports"] == [{"name": "https", "port": port, "protocol": "TCP"}]
    finally:
        await server.stop()


async def test_a_server_that_never_listened_leaves_no_socket() -> None:
    everyone = Everyone()
    server = ApiServer(ServerOptions(port=0, store="memory"), Security(authenticator=everyone, authorizer=everyone))
    ((host, port),) = server.bind()
    await server.stop()
    again = ApiServer(ServerOptions(port=port, bind_addresses=(host,)), server.security)
    assert again.bind() == [(host, port)]
    await again.stop()
