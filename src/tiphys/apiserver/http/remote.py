"""RemoteService: a service outside that the server asks, named by a kubeconfig: webhooks of audit, tokens, access."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tiphys.apiserver.configfile import ConfigError

if TYPE_CHECKING:
    from tiphys.client.config import RestConfig
    from tiphys.client.transport import HttpTransport

HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "kube-apiserver",
}


class RemoteError(OSError):
    """The service did not answer, or with an error; `status` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RemoteService:
    """Posts documents to one URL, with TLS and the identity of a kubeconfig.

    Most servers have no such service: they are spared the HTTP client's memory and start-up time, so `tiphys.client` is
    imported where one is made.
    """

    def __init__(self, config: RestConfig) -> None:
        self.url = config.server
        self._config = config
        self._transport: HttpTransport | None = None

    @classmethod
    def at(cls, url: str, ca: bytes, token: str = "") -> RemoteService:
        """The service at `url`; `ca`: PEM, b"" trusts what the machine trusts. `token` is shown to it."""
        from tiphys.client.config import RestConfig

        return cls(RestConfig(server=url, ca_data=ca, token=token))

    @classmethod
    def from_kubeconfig(cls, path: Path) -> RemoteService:
        """Raises ConfigError when the file is not there or is no kubeconfig."""
        if not path.exists():
            raise ConfigError(f"stat {path}: no such file or directory")
        from tiphys.client.config import RestConfig

        try:
            config = RestConfig.from_kubeconfig(path)
            config.ssl_context()
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from None
        return cls(config)

    async def post(self, body: bytes) -> bytes:
        """The answer. Raises RemoteError."""
        return await self._request("POST", body)

    async def get(self) -> bytes:
        """What is there. Raises RemoteError."""
        return await self._request("GET", None)

    async def _request(self, method: str, body: bytes | None) -> bytes:
        try:
            answer = await self._opened().request(method, "", HEADERS, body)
        except ConnectionError as error:
            raise RemoteError(str(error)) from None
        if not 200 <= answer.status < 300:
            text = answer.body[:1024].decode(errors="replace").strip()
            raise RemoteError(f'{method.title()} "{self.url}": HTTP status {answer.status}: {text}', answer.status)
        return answer.body

    async def close(self) -> None:
        """End the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    def _opened(self) -> HttpTransport:
        if self._transport is None:
            from tiphys.client.transport import HttpTransport

            self._transport = HttpTransport(self._config)
        return self._transport
