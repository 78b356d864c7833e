"""A probe's loop in virtual time, and what each way of asking makes of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.unit.kubelet.builders import START, container, make_pod
from tiphys.api.core.v1 import HTTPGetAction, Probe
from tiphys.base.clock import FakeClock
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.probes.http import headers_of, probe_http, url_of
from tiphys.kubelet.probes.outcome import Outcome, Verdict, failure, success
from tiphys.kubelet.probes.tcp import probe_tcp
from tiphys.kubelet.probes.worker import ProbeType, ProbeWorker, Streak


@pytest.mark.parametrize(
    ("answers", "results"),
    [
        ("FFF", [None, None, False]),
        ("FFSFFF", [None, None, None, None, None, False]),
        ("SS", [None, True]),
        ("SFSS", [None, None, None, True]),
        ("EEE", [None, None, None]),
    ],
)
def test_answers_in_a_row(answers: str, results: list[bool | None]) -> None:
    verdicts = {"S": Verdict.SUCCESS, "F": Verdict.FAILURE, "E": Verdict.ERROR}
    streak = Streak(success_threshold=2, failure_threshold=3)
    assert [streak.add(verdicts[answer]) for answer in answers] == results


class Asked:
    """A worker with scripted answers; notes when it was asked and what it settled."""

    def __init__(self, kind: ProbeType, answers: Iterable[Outcome], started: bool = True, **probe: Any) -> None:
        self.clock = FakeClock(START)
        self.times: list[float] = []
        self.settled: list[bool] = []
        self.started = started
        self._answers = iter(answers)
        pod = make_pod("app")
        self.current = container(pod, "app", age=0)
        self.worker = ProbeWorker(
            pod=pod,
            container=pod.spec.containers[0],
            kind=kind,
            probe=msgspec.convert({"exec": {"command": ["x"]}, **probe}, Probe),
            clock=self.clock,
            ask=self._ask,
            settle=lambda kind, current, good: self.settled.append(good),
            report=lambda kind, container, outcome: None,
            started=lambda current: self.started,
        )

    async def _ask(self, probe: Probe, spec: object, current: RuntimeContainer) -> Outcome:
        self.times.append(self.clock.monotonic())
        return next(self._answers)

    async def run(self, seconds: float) -> None:
        task = asyncio.ensure_future(self.worker.run())
        self.worker.observe(self.current)
        await self.clock.advance(seconds)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_probe_waits_for_its_delay_and_asks_every_period() -> None:
    asked = Asked(ProbeType.READINESS, [success()] * 9, initialDelaySeconds=5, periodSeconds=3)
    await asked.run(12)
    assert asked.times == [5, 8, 11]
    assert asked.settled == [True, True, True]


async def test_a_failed_liveness_probe_is_quiet_until_the_container_is_another() -> None:
    asked = Asked(ProbeType.LIVENESS, [failure("x")] * 9, failureThreshold=2, periodSeconds=1)
    await asked.run(10)
    assert asked.settled == [False]
    assert asked.times == [0, 1]


async def test_liveness_waits_for_the_startup_probe() -> None:
    asked = Asked(ProbeType.LIVENESS, [success()] * 9, started=False)
    await asked.run(30)
    assert asked.times == []


async def test_a_startup_probe_ends_once_started() -> None:
    asked = Asked(ProbeType.STARTUP, [failure("x"), success(), success()], started=False, periodSeconds=1)
    asked.worker.settle = lambda kind, current, good: (asked.settled.append(good), setattr(asked, "started", good))[0]
    await asked.run(10)
    assert (asked.times, asked.settled) == ([0, 1], [True])


def test_the_url_and_headers_of_a_probe() -> None:
    action = msgspec.convert(
        {"path": "health", "port": 80, "httpHeaders": [{"name": "X-A", "value": "1"}, {"name": "accept", "value": ""}]},
        HTTPGetAction,
    )
    assert url_of(action, "::1", 80) == "http://[::1]:80/health"
    assert headers_of(action, "kube-probe/1.36") == {"User-Agent": "kube-probe/1.36", "X-A": "1"}


@pytest.mark.parametrize(
    ("answer", "verdict", "output"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Verdict.SUCCESS, "ok"),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            Verdict.FAILURE,
            "HTTP probe failed with statuscode: 503",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
            Verdict.SUCCESS,
            "Probe terminated redirects, Response body: ",
        ),
    ],
    ids=["well", "busy", "sent away"],
)
async def test_http_answers(answer: bytes, verdict: Verdict, output: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await probe_http(f"http://127.0.0.1:{port}/", {}, 5) == Outcome(verdict, output)
        assert (await probe_tcp("127.0.0.1", port, 5)).verdict is Verdict.SUCCESS
    refused = await probe_http(f"http://127.0.0.1:{port}/x", {}, 5)
    assert refused.output == (
        f'Get "http://127.0.0.1:{port}/x": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
    assert (await probe_tcp("127.0.0.1", port, 5)).output == f"dial tcp 127.0.0.1:{port}: connect: connection refused"
