"""The members of an etcd cluster, each asked for itself, as etcdctl asks them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from tiphys.api.etcd import rpc_pb2, rpc_pb2_grpc
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.etcd.target import Standing
from tiphys.store import EtcdAccess, StoreError
from tiphys.store.etcd.backup import is_whole
from tiphys.store.etcd.endpoints import CHANNEL_OPTIONS, TLSFiles, target_of

T = TypeVar("T")
ANSWER_WITHIN: Final = 5.0  # seconds, as etcdctl's --command-timeout
LONG_WORK: Final = 600.0


class Members:
    """See `Target`."""

    def __init__(self, urls: Sequence[str], access: EtcdAccess) -> None:
        self._urls = urls
        self._access = access

    @contextmanager
    def _channel(self, url: str) -> Iterator[Any]:
        try:
            secure, target = target_of(url)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if secure:
            files = TLSFiles(ca=self._access.ca, certificate=self._access.certificate, key=self._access.key)
            channel = grpc.secure_channel(target, files.credentials(), options=CHANNEL_OPTIONS)
        else:
            channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        try:
            yield channel
        except grpc.RpcError as error:
            raise StoreError(f"{url}: {error.details() or error.code().name}") from error
        finally:
            channel.close()

    def _any(self, call: Callable[[Any], T]) -> T:
        """What the first member says that answers."""
        problems = []
        for url in self._urls:
            try:
                with self._channel(url) as channel:
                    return call(channel)
            except StoreError as error:
                problems.append(str(error))
        raise StoreError("; ".join(problems))

    def statuses(self) -> Sequence[Standing]:
        return [self._status(url) for url in self._urls]

    def _status(self, url: str) -> Standing:
        try:
            with self._channel(url) as channel:
                stub: Any = rpc_pb2_grpc.MaintenanceStub(channel)
                told = stub.Status(rpc_pb2.StatusRequest(), timeout=ANSWER_WITHIN)
        except StoreError as error:
            return Standing(endpoint=url, leader=False, problem=str(error))
        return Standing(
            endpoint=url,
            version=told.version,
            revision=told.header.revision,
            compacted_revision=0,
            size=told.dbSize,
            size_in_use=told.dbSizeInUse,
            quota=told.dbSizeQuota,
            leader=told.leader == told.header.member_id,
            errors=tuple(told.errors),
        )

    def compact(self, revision: int) -> int:
        def work(channel: Any) -> int:
            stub: Any = rpc_pb2_grpc.KVStub(channel)
            newest = revision
            if not newest:
                found = stub.Range(rpc_pb2.RangeRequest(key=b"\0", count_only=True), timeout=ANSWER_WITHIN)
                newest = found.header.revision
            stub.Compact(rpc_pb2.CompactionRequest(revision=newest, physical=True), timeout=LONG_WORK)
            return int(newest)

        return self._any(work)

    def defragment(self) -> Iterator[str]:
        for url in self._urls:  # one after the other: a member answers nothing meanwhile
            with self._channel(url) as channel:
                stub: Any = rpc_pb2_grpc.MaintenanceStub(channel)
                stub.Defragment(rpc_pb2.DefragmentRequest(), timeout=LONG_WORK)
            yield url

    def alarms(self) -> Sequence[tuple[str, str]]:
        return [(str(one.memberID), rpc_pb2.AlarmType.Name(one.alarm)) for one in self._any(_alarms)]

    def disarm(self) -> Sequence[tuple[str, str]]:
        def work(channel: Any) -> list[tuple[str, str]]:
            stub: Any = rpc_pb2_grpc.MaintenanceStub(channel)
            raised = _alarms(channel)
            for one in raised:
                request = rpc_pb2.AlarmRequest(
                    action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=one.memberID, alarm=one.alarm
                )
                stub.Alarm(request, timeout=ANSWER_WITHIN)
            return [(str(one.memberID), rpc_pb2.AlarmType.Name(one.alarm)) for one in raised]

        return self._any(work)

    def save(self, path: Path) -> None:
        if len(self._urls) != 1:
            raise UsageError("a snapshot is of one member: name one with --endpoints")
        partial = path.with_name(path.name + ".part")
        try:
            self._receive(partial)
            if not is_whole(partial):
                raise CommandError("the snapshot came damaged; save it again")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _receive(self, path: Path) -> None:
        with path.open("wb") as out, self._channel(self._urls[0]) as channel:
            os.fchmod(out.fileno(), 0o600)  # it has secrets in it
            stub: Any = rpc_pb2_grpc.MaintenanceStub(channel)
            for piece in stub.Snapshot(rpc_pb2.SnapshotRequest(), timeout=LONG_WORK):
                out.write(piece.blob)
            out.flush()
            os.fsync(out.fileno())


def _alarms(channel: Any) -> Sequence[Any]:
    stub: Any = rpc_pb2_grpc.MaintenanceStub(channel)
    answer = stub.Alarm(rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET), timeout=ANSWER_WITHIN)
    return list(answer.alarms)
