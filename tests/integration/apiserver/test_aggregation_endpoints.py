"""Requests to an extension server of which some endpoints are on their way out."""

from pathlib import Path

import pytest

from tests.integration.apiserver.extension import Extension, extension_server
from tests.unit.apiserver.aggregator.test_transport import objects, registration, transport
from tiphys.apiserver.aggregator.transport import TransportError
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.pki import Authority


async def test_an_endpoint_that_refuses_leaves_the_others(tmp_path: Path) -> None:
    authority = Authority.create("ca")
    async with extension_server(Extension(group="g"), authority, ["api.ns.svc"], tmp_path) as extension:
        # Nothing listens at the other addresses, which a Service still names while its pods end.
        found = objects("127.0.0.2", "127.0.0.1", "127.0.0.3")
        found.found["discovery.k8s.io", "endpointslices"][0]["ports"][0]["port"] = extension.port
        made = transport(found)
        for _ in range(5):
            answer = await made.fetch(registration(bundle=authority.pem.decode()), "/apis", UserInfo("me"), timeout=5)
            assert answer.status == 200
    with pytest.raises(TransportError, match="connection refused"):
        await made.fetch(registration(bundle=authority.pem.decode()), "/apis", UserInfo("me"), timeout=5)
