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
import json
import re
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

OUTPUT_JSON: Final = 1 << 4
NETLINK_NETFILTER: Final = 12

# NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN; NLM_F_REQUEST
_GETGEN: Final = 10 << 8 | 16
_NFTA_GEN_ID: Final = 1


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
        if self._library is not None:
            self._context = self._library.nft_ctx_new(0)
            if not self._context:
                raise NftError("nft_ctx_new failed: no permission to use netfilter's netlink socket")
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
            self._library.nft_ctx_output_set_flags(self._context, OUTPUT_JSON)

    def close(self) -> None:
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
        objects: list[dict[str, Any]] = json.loads(output)["nftables"]
        return [entry for entry in objects if "metainfo" not in entry]

    def elements(self, family: str, table: str, name: str, *, kind: str = "map") -> dict[str, str]:
        """The elements of a map (key → value) or set (key → ""), both as nft writes them; see `text_of`."""
        for entry in self.list(f"{kind} {family} {table} {name}"):
            found = entry.get(kind)
            if found is None:
                continue
            if kind == "map":
                return {text_of(pair[0]): text_of(pair[1]) for pair in found.get("elem", ())}
            return {text_of(key): "" for key in found.get("elem", ())}
        return {}


def text_of(value: Any) -> str:
    """An expression of libnftables' JSON in nft's own notation: numbers decimal, concatenations with " . "."""
    if isinstance(value, str):
        # A mark is printed in hexadecimal where it is a data value.
        return str(int(value, 16)) if re.fullmatch(r"0x[0-9a-fA-F]+", value) else value
    if not isinstance(value, dict):
        return str(value)
    if "concat" in value:
        return " . ".join(text_of(part) for part in value["concat"])
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


def generation() -> int:
    """The number of the last committed nftables transaction in the calling thread's network namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as channel:
        channel.settimeout(1.0)
        channel.send(struct.pack("=IHHIIBBH", 20, _GETGEN, 1, 1, 0, 0, 0, 0))
        reply = channel.recv(4096)
    at = 20
    while at + 4 <= len(reply):
        length, kind = struct.unpack_from("=HH", reply, at)
        if kind & 0x3FFF == _NFTA_GEN_ID:
            return int(struct.unpack_from(">I", reply, at + 4)[0])
        at += max(4, (length + 3) & ~3)
    raise NftError("the kernel did not tell its nftables generation")


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

    async def elements(self, family: str, table: str, name: str, *, kind: str = "map") -> dict[str, str]:
        """As `Nft.elements`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: self._connected().elements(family, table, name, kind=kind)
        )

    async def list(self, what: str) -> list[dict[str, Any]]:
        """As `Nft.list`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._connected().list(what))

    async def generation(self) -> int:
        """As the function `generation`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, generation)

    def close(self) -> None:
        """Free the connection; calls after this fail."""
        self._executor.submit(lambda: self._nft.close() if self._nft else None)
        self._executor.shutdown(wait=True)
