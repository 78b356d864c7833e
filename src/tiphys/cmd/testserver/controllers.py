"""The controllers of a test's cluster, in the API server's event loop. Imported late: it is the larger half."""

from __future__ import annotations

from tiphys.base.clock import SystemClock
from tiphys.client import Client, RestConfig
from tiphys.cmd.testserver.identity import Identity
from tiphys.controllers.common.context import Options
from tiphys.controllers.manager import ControllerManager, selected


def check(names: tuple[str, ...]) -> None:
    """Raises ValueError for a controller that does not exist."""
    selected(names)


async def run(identity: Identity, url: str, names: tuple[str, ...]) -> None:
    """Run the controllers `names` (as `--controllers` takes them) until cancelled."""
    options = Options(
        root_ca=identity.ca,
        service_account_key=identity.read("sa.key"),
        cluster_signing_cert=identity.ca,
        cluster_signing_key=identity.read("ca.key"),
        # Nodes of a test are objects only: nobody needs addresses for their pods.
        cluster_cidrs=(),
    )
    config = RestConfig(
        server=url, ca_data=identity.ca, cert_data=identity.client.certificate, key_data=identity.client.key
    )
    async with Client(config, user_agent="kube-controller-manager") as api:
        manager = ControllerManager(options, api, SystemClock(), controllers=names)
        await manager.run()
