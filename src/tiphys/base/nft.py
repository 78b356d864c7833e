"""nftables through libnftables in the process: one call is one transaction.

Everything given to `Nft.run` is applied or nothing is. The library opens its netlink socket in
the network namespace of the thread that calls it, so a `Nft` belongs to one thread; `AsyncNft`
keeps such a thread. Where the shared library is missing, `nft -f -` does the same in a process.
https://wiki.nftables.org/wiki-nftables/index.php/Main_Page, libnftables(3), libnftables-json(5)
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import orjson

OUTPUT_JSON: Final = 1 << 4
NETLINK_NETFILTER: Final = 12

# NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN; NLM_F_REQUEST
_GETGEN: Final = 10 << 8 | 16
_NFTA_GEN_ID: Final = 1
_PROTOCOLS: Final = {"6": "tcp", "17": "udp", "132": "sctp"}


class NftError(Exception):
    """A transaction was refused; nothing of it was applied. The message is the library's."""

    @property
    def not_found(self) -> bool:
        """Whether the table, chain, set or element that was named does not exist."""
        return "No such file or directory" in str(self)

    @property
    def exists(self) -> bool:
        """Whether something to be added was there already with another content."""
        return "File exists" in str(self)


def _load() -> ctypes.CDLL | None:
    for name in ("libnftables.so.1", ctypes.util.find_library("nftables")):
        if not name:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, function).argtypes = [ctypes.c_void_p]
        for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, function).argtypes = [ctypes.c_void_p]
            getattr(library, function).restype = ctypes.c_char_p
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        return library
    return None


class Nft:
    """A connection to the nftables of the calling thread's network namespace. Not shared between threads."""

    def __init__(self) -> None:
        self._library = _load()
        self._context: int | None = None
        self._channel: socket.socket | None = None
        if self._library is not None:
            self._context = self._library.nft_ctx_new(0)
            if not self._context:
                raise NftError("nft_ctx_new failed: no permission to use netfilter's netlink socket")
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
            self._library.nft_ctx_output_set_flags(self._context, OUTPUT_JSON)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._library is not None and self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, script: str) -> str:
        """Apply a script in nft's language as one transaction and return what it prints (JSON).

        Raises NftError when any part is refused; then nothing was changed.
        """
        if self._library is None:
            return self._run_process(script)
        status = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            raise NftError(errors.decode(errors="replace").strip() or "nftables refused the transaction")
        return str(output.decode())

    @staticmethod
    def _run_process(script: str) -> str:
        done = subprocess.run(["nft", "-j", "-f", "-"], input=script.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise NftError(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode()

    def generation(self) -> int:
        """The number of the last committed nftables transaction in this network namespace."""
        # The socket is kept: closing one makes the kernel wait until everything deleted lately is freed.
        if self._channel is None:
            self._channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._channel.settimeout(1.0)
        self._channel.send(struct.pack("=IHHIIBBH", 20, _GETGEN, 1, 1, 0, 0, 0, 0))
        reply = self._channel.recv(4096)
        at = 20
        while at + 4 <= len(reply):
            length, kind = struct.unpack_from("=HH", reply, at)
            if kind & 0x3FFF == _NFTA_GEN_ID:
                return int(struct.unpack_from(">I", reply, at + 4)[0])
            at += max(4, (length + 3) & ~3)
        raise NftError("the kernel did not tell its nftables generation")

    def list(self, what: str) -> list[dict[str, Any]]:
        """The objects `nft list <what>` names, as libnftables-json(5) describes them; none if it does not exist."""
        try:
            output = self.run(f"list {what}\n")
        except NftError as error:
            if error.not_found:
                return []
            raise
        if not output.strip():
            return []
        objects: list[dict[str, Any]] = orjson.loads(output)["nftables"]
        return [entry for entry in objects if "metainfo" not in entry]

    def table(self, family: str, name: str) -> Table:
        """All of a table's maps, sets and chains; empty when there is no such table.

        One call for everything: libnftables reads the whole table whatever is asked of it.
        """
        found = Table({}, set())
        for entry in self.list(f"table {family} {name}"):
            if (chain := entry.get("chain")) is not None:
                found.chains.add(chain["name"])
            elif (elements := elements_of(entry)) is not None:
                found.elements.update([elements])
        return found

    def elements(self, family: str, table: str, name: str) -> dict[str, str]:
        """The elements of a map (key → value) or set (key → ""), both as nft writes them; see `text_of`."""
        return self.table(family, table).elements.get(name, {})


class Table(NamedTuple):
    """A table as it is in the kernel: map or set → key → value, and the names of its chains."""

    elements: dict[str, dict[str, str]]
    chains: set[str]


def text_of(value: Any) -> str:
    """An expression of libnftables' JSON in nft's own notation: numbers decimal, concatenations with " . "."""
    if isinstance(value, str):
        # A mark is printed in hexadecimal where it is a data value.
        return str(int(value, 16)) if re.fullmatch(r"0x[0-9a-fA-F]+", value) else value
    if not isinstance(value, dict):
        return str(value)
    if "concat" in value:
        return " . ".join([part if type(part) is str else text_of(part) for part in value["concat"]])
    if "elem" in value:
        return text_of(value["elem"]["val"])
    if "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    if "range" in value:
        return "-".join(text_of(part) for part in value["range"])
    for verdict in ("goto", "jump"):
        if verdict in value:
            return f"{verdict} {value[verdict]['target']}"
    return str(next(iter(value)))


def elements_of(entry: Mapping[str, Any]) -> tuple[str, dict[str, str]] | None:
    """Name and elements of a map (key → value) or set (key → ""), as nft writes them; None for any other object."""
    if (mapping := entry.get("map")) is not None:
        key_text = _text_of_keys(mapping.get("type", ""))
        return mapping["name"], {key_text(key): text_of(value) for key, value in mapping.get("elem", ())}
    if (plain := entry.get("set")) is not None:
        return plain["name"], dict.fromkeys(map(_text_of_keys(plain.get("type", "")), plain.get("elem", ())), "")
    return None


def _text_of_keys(types: str | Sequence[str]) -> Callable[[Any], str]:
    """`text_of` for keys of these types: protocols by name, also where the machine lacks their list.

    The library prints 6 for tcp without /etc/protocols (Debian's package netbase).
    """
    names = (types,) if isinstance(types, str) else types
    if "inet_proto" not in names or _knows_protocols():
        return text_of
    at = names.index("inet_proto")

    def written(key: Any) -> str:
        parts = text_of(key).split(" . ")
        parts[at] = _PROTOCOLS.get(parts[at], parts[at])
        return " . ".join(parts)

    return written


def _knows_protocols() -> bool:
    try:
        socket.getprotobyname("sctp")
    except OSError:
        return False
    return True


class AsyncNft:
    """`Nft` for the event loop: calls run in order in a thread of their own.

    The thread starts in the network namespace of the thread that makes the first call.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nft")
        self._nft: Nft | None = None

    def _connected(self) -> Nft:
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    async def run(self, script: str) -> str:
        """As `Nft.run`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._connected().run(script))

    async def table(self, family: str, name: str) -> Table:
        """As `Nft.table`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: self._connected().table(family, name)
        )

    async def elements(self, family: str, table: str, name: str) -> dict[str, str]:
        """As `Nft.elements`."""
        return (await self.table(family, table)).elements.get(name, {})

    async def list(self, what: str) -> list[dict[str, Any]]:
        """As `Nft.list`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._connected().list(what))

    async def generation(self) -> int:
        """As `Nft.generation`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._connected().generation())

    def close(self) -> None:
        """Free the connection; calls after this fail."""
        self._executor.submit(lambda: self._nft.close() if self._nft else None)
        self._executor.shutdown(wait=True)
