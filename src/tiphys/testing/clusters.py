"""Cluster: what a test sees of its cluster."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tiphys.testing.launcher import ClusterError, Launcher, launcher

if TYPE_CHECKING:
    from tiphys.client import RestConfig

__all__ = ["ClientConfig", "Cluster", "ClusterError", "cluster"]

# Seconds: far more than a slow machine needs, so that a broken cluster fails its test instead of hanging it.
START_TIMEOUT: Final = 60.0
CALL_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What any client needs: the server's URL, and PEM files of the authority and the administrator's identity."""

    server: str
    ca: Path
    cert: Path
    key: Path

    def rest_config(self) -> RestConfig:
        """The same for `tiphys.client.Client`."""
        from tiphys.client import RestConfig

        return RestConfig(
            server=self.server,
            ca_data=self.ca.read_bytes(),
            cert_data=self.cert.read_bytes(),
            key_data=self.key.read_bytes(),
        )


class Cluster:
    """A running cluster. Its methods block for milliseconds; they may be called from any thread, one at a time."""

    def __init__(self, channel: socket.socket, facts: Mapping[str, str]) -> None:
        self._channel = channel
        self._file = channel.makefile("rb")
        self.server: str = facts["server"]
        self.kubeconfig = Path(facts["kubeconfig"])
        self.client_config = ClientConfig(
            server=self.server, ca=Path(facts["ca"]), cert=Path(facts["cert"]), key=Path(facts["key"])
        )

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with KUBECONFIG set: for `subprocess.run(…, env=cluster.environment)`."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def namespace(self, prefix: str = "test") -> str:
        """Make a new namespace, ready for pods; returns its name. Raises ClusterError."""
        return str(self._ask({"op": "namespace", "prefix": prefix})["name"])

    def reset(self) -> None:
        """Empty the cluster: only what a new one has is there. Watches go on and see the deletions.

        Finalizers, grace periods and admission are not asked. Raises ClusterError.
        """
        self._ask({"op": "reset"})

    def stop(self) -> None:
        """End the cluster; harmless when it has ended. Returns once its process has."""
        if self._channel.fileno() < 0:
            return
        self._channel.shutdown(socket.SHUT_WR)
        try:
            self._file.read()
        except OSError:
            pass  # it did not end in time, or was killed: the launcher sees to it
        self._file.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Cluster {self.server}>"

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ClusterError(f"the cluster {self.server} has ended: {error}") from error
        return read_answer(self._file)


def read_answer(file: Any) -> dict[str, Any]:
    """One answer of the cluster's process. Raises ClusterError: its own words, or that it has ended."""
    try:
        line = file.readline()
    except OSError as error:
        raise ClusterError(f"the cluster's process does not answer: {error}") from error
    if not line:
        raise ClusterError("the cluster's process has ended")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ClusterError(answer["error"])
    return answer


def start(
    *,
    controllers: Sequence[str] | bool = True,
    datastore: str | Path = "memory",
    runtime_config: Mapping[str, bool] | None = None,
    using: Launcher | None = None,
) -> Cluster:
    """A new cluster; see `cluster`. The caller stops it."""
    names = ["*"] if controllers is True else list(controllers or ())
    settings = {
        "datastore": str(datastore),
        "controllers": names,
        "runtime_config": dict(runtime_config or {}),
    }
    chosen = using or launcher()
    channel = chosen.fork(settings)
    try:
        channel.settimeout(START_TIMEOUT)
        with channel.makefile("rb") as file:
            facts = read_answer(file)
    except ClusterError as error:
        channel.close()
        raise ClusterError(f"{error}{chosen.log_tail()}") from None
    channel.settimeout(CALL_TIMEOUT)
    return Cluster(channel, facts)


@contextmanager
def cluster(
    *,
    controllers: Sequence[str] | bool = True,
    datastore: str | Path = "memory",
    runtime_config: Mapping[str, bool] | None = None,
) -> Iterator[Cluster]:
    """A cluster for the length of a `with`; as many at once as you like.

    `controllers`: False for the API server alone, or names as kube-controller-manager's `--controllers` takes them.
    `datastore`: "memory", or a directory to keep the state in. `runtime_config`: API versions to turn on or off, as
    `--runtime-config`: {"api/alpha": True}. Raises ClusterError with the last lines of its log.
    """
    made = start(controllers=controllers, datastore=datastore, runtime_config=runtime_config)
    with made:
        yield made
