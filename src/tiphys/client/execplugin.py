"""Exec credential plugins: a program of the user's that prints an ExecCredential with a token.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tiphys.machinery.time import parse_rfc3339


@dataclass(slots=True)
class ExecPlugin:
    """One `exec` entry of a kubeconfig user, and the credential it gave last."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    api_version: str = "client.authentication.k8s.io/v1"
    install_hint: str = ""
    _token: str = field(default="", repr=False)
    _expires: datetime | None = None

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> ExecPlugin:
        """Read the kubeconfig form; raises ValueError without a command."""
        if not entry.get("command"):
            raise ValueError("kubeconfig: exec plugin has no command")
        env = {pair["name"]: pair.get("value", "") for pair in entry.get("env") or ()}
        return cls(
            command=entry["command"],
            args=tuple(entry.get("args") or ()),
            env=env,
            api_version=entry.get("apiVersion", "client.authentication.k8s.io/v1"),
            install_hint=entry.get("installHint", ""),
        )

    async def token(self, now: datetime) -> str:
        """The current token; runs the program when there is none or it has expired.

        Raises RuntimeError with the program's own words when it fails.
        """
        if self._token and (self._expires is None or now < self._expires):
            return self._token
        status = (await self._run()).get("status") or {}
        expires = status.get("expirationTimestamp")
        self._expires = parse_rfc3339(expires) if expires else None
        self._token = status.get("token", "")
        return self._token

    def forget(self) -> None:
        """Run the program again at the next request."""
        self._token = ""

    async def _run(self) -> dict[str, Any]:
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = {**os.environ, **self.env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            process = await asyncio.create_subprocess_exec(
                self.command,
                *self.args,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError as error:
            hint = f"; {self.install_hint}" if self.install_hint else ""
            raise RuntimeError(f"exec: executable {self.command} not found{hint}") from error
        out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(
                f"exec: executable {self.command} failed with exit code {process.returncode}: {err.decode().strip()}"
            )
        credential: dict[str, Any] = json.loads(out)
        return credential
