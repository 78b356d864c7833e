"""`tiphys token`: makes a bootstrap token and prints the command with which another machine joins."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Secret
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import Client
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.join import public_key_hash
from tiphys.cmd.cluster.joining import BOOTSTRAPPERS
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.component import connect
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.machinery.errors import StatusError
from tiphys.machinery.time import format_time

ALPHABET: Final = string.ascii_lowercase + string.digits
LIFETIME: Final = timedelta(hours=24)


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys token create`."""
    flags = FlagParser("token", "Make a token with which another machine joins the cluster.")
    flags.add_argument("action", choices=("create",), help="make a token and print the command that joins")
    flags.add_argument("--ttl", type=duration, default=LIFETIME, help="how long it is good for, as 24h")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    options = flags.parse(arguments)
    layout = Layout.of(options.name, options.state_dir)
    spec = specs.load(layout.spec)
    if spec is None:
        raise CommandError(f'there is no cluster "{options.name}"; `tiphys up` makes one')
    if spec.mode != "cluster":
        raise CommandError(f'cluster "{options.name}" was made without nodes ({spec.mode}), so none can join')
    token = f"{_random(6)}.{_random(16)}"

    async def work() -> None:
        async with connect(layout.kubeconfig("admin"), "tiphys-token") as client:
            await create(client, token, datetime.now(UTC) + options.ttl)

    try:
        asyncio.run(work())
    except StatusError as error:
        raise CommandError(error.message) from error
    except OSError as error:
        raise CommandError(f'cluster "{options.name}" does not answer; `tiphys up` starts it') from error
    server = f"https://{spec.bridge_address()}:{spec.api_port}"
    hashed = public_key_hash((layout.pki / "ca.crt").read_bytes())
    print(f"tiphys agent --server {server} --token {token} --ca-cert-hash {hashed}")
    return 0


async def create(client: Client, token: str, expires: datetime) -> None:
    """Enter the token. https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/"""
    token_id, _, token_secret = token.partition(".")
    data = {
        "token-id": token_id,
        "token-secret": token_secret,
        "expiration": format_time(expires),
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": BOOTSTRAPPERS,
        "description": "The token of a machine that joins (tiphys token create).",
    }
    metadata = ObjectMeta(name=f"bootstrap-token-{token_id}", namespace="kube-system")
    content = {name: text.encode() for name, text in data.items()}
    await client.create(Secret(metadata=metadata, type="bootstrap.kubernetes.io/token", data=content))


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
