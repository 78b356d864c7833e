from __future__ import annotations

import asyncio

from tests.unit.apiserver.core.objects import make_cache, make_entry
from tiphys.apiserver.watchcache import CacheEvent, Filter, KindCache, Watcher
from tiphys.apiserver.watchcache.watchers import MAX_QUEUED_BYTES, WatcherSet
from tiphys.machinery.selectors import FieldSelector


class Sink:
    """A client: what it got, and whether it keeps up."""

    def __init__(self) -> None:
        self.writable = True
        self.got = b""

    def write_framed(self, data: bytes) -> None:
        self.got += data


class Encoder:
    """Writes TYPE:name@revision; counts its work."""

    key = "plain"

    def __init__(self) -> None:
        self.encoded = 0

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        self.encoded += 1
        return f"{kind}:{event.subject.name}@{event.revision} ".encode()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def delivered(watchers: WatcherSet) -> None:
    for _ in range(500):
        if watchers.idle:
            return
        await asyncio.sleep(0.001)


def change(cache: KindCache, watchers: WatcherSet, name: str, revision: int, **more: object) -> None:
    watchers.publish(cache.put(make_entry(name, revision, **more)))


async def test_every_watcher_gets_every_event_encoded_once() -> None:
    cache, encoder, sinks = make_cache(), Encoder(), [Sink() for _ in range(700)]
    watchers = WatcherSet(cache)
    for sink in sinks:
        watcher = Watcher(sink, 0)
        watchers.add(Filter(), encoder, watcher)
        watcher.release()
    change(cache, watchers, "a", 1)
    change(cache, watchers, "a", 2)
    await turns()
    assert {sink.got for sink in sinks} == {b"ADDED:a@1 MODIFIED:a@2 "}
    assert encoder.encoded == 2
    assert watchers.idle


async def test_a_watcher_is_told_nothing_it_has_seen_already() -> None:
    cache, encoder, sink = make_cache(), Encoder(), Sink()
    watchers = WatcherSet(cache)
    other = Watcher(Sink(), 0)
    watchers.add(Filter(), encoder, other)
    change(cache, watchers, "a", 1)
    watcher = Watcher(sink, 1)  # registers while the event is still waiting to be delivered
    watchers.add(Filter(), encoder, watcher)
    watcher.release()
    change(cache, watchers, "b", 2)
    await turns()
    assert sink.got == b"ADDED:b@2 "


async def test_events_wait_until_the_initial_part_is_sent() -> None:
    cache, sink = make_cache(), Sink()
    watchers = WatcherSet(cache)
    watcher = Watcher(sink, 0)
    watchers.add(Filter(), Encoder(), watcher)
    change(cache, watchers, "a", 1)
    await turns()
    assert sink.got == b""
    sink.write_framed(b"initial ")
    watcher.release()
    assert sink.got == b"initial ADDED:a@1 "


async def test_a_slow_client_catches_up_in_order() -> None:
    cache, sink = make_cache(), Sink()
    watchers = WatcherSet(cache)
    watcher = Watcher(sink, 0)
    watchers.add(Filter(), Encoder(), watcher)
    watcher.release()
    sink.writable = False
    for revision in range(1, 4):
        change(cache, watchers, "a", revision)
        await delivered(watchers)
    sink.writable = True
    change(cache, watchers, "a", 4)
    await delivered(watchers)
    watcher.flush()
    assert sink.got == b"ADDED:a@1 MODIFIED:a@2 MODIFIED:a@3 MODIFIED:a@4 "


async def test_changes_that_come_fast_are_written_together() -> None:
    cache, sink = make_cache(), Sink()
    watchers = WatcherSet(cache)
    watcher = Watcher(sink, 0)
    watchers.add(Filter(), Encoder(), watcher)
    watcher.release()
    for revision in range(1, 7):
        change(cache, watchers, "a", revision)
        await turns()
    assert not watchers.idle
    await delivered(watchers)
    assert sink.got.split() == [b"ADDED:a@1", *(b"MODIFIED:a@%d" % revision for revision in range(2, 7))]


async def test_a_client_that_never_reads_is_ended() -> None:
    sink = Sink()
    watcher = Watcher(sink, 0)
    watcher.release()
    sink.writable = False
    for _ in range(5):
        watcher.deliver(b"x" * (MAX_QUEUED_BYTES // 4))
    assert watcher.ended.done()


async def test_watchers_of_one_field_value_are_found_by_it() -> None:
    cache, encoder = make_cache(), Encoder()
    watchers, sinks = WatcherSet(cache), {node: Sink() for node in ("n1", "n2", "n3")}
    for node, sink in sinks.items():
        text = f"spec.nodeName={node}"
        watcher = Watcher(sink, 0)
        watchers.add(Filter(fields=FieldSelector.parse(text), field_text=text), encoder, watcher)
        watcher.release()
    change(cache, watchers, "p", 1, data={"node": "n1"})
    change(cache, watchers, "p", 2, data={"node": "n2"})
    await turns()
    assert sinks["n1"].got == b"ADDED:p@1 DELETED:p@2 "
    assert sinks["n2"].got == b"ADDED:p@2 "
    assert sinks["n3"].got == b""


async def test_a_removed_watcher_is_left_alone() -> None:
    cache, sink = make_cache(), Sink()
    watchers = WatcherSet(cache)
    watcher = Watcher(sink, 0)
    group = watchers.add(Filter(), Encoder(), watcher)
    watcher.release()
    watchers.remove(group, watcher)
    change(cache, watchers, "a", 1)
    await turns()
    assert sink.got == b""
    assert len(watchers) == 0
    assert watchers.delivered_revision == 1
