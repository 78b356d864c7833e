"""The pause program: the first process of a pod that shares its process ids, as a static ELF file made here.

No compiler is on a user's machine, so the few instructions are written down. The program blocks SIGINT, SIGTERM
and SIGCHLD and waits for them: for SIGCHLD it reaps every ended child, for the others it exits with 0. Blocked
signals reach the first process of a PID namespace although it has no handlers (signal(7)).

    block(mask)                      rt_sigprocmask(SIG_BLOCK, &mask, NULL, 8)
    wait: s = rt_sigtimedwait(&mask, NULL, NULL, 8)
          if s == SIGCHLD: while wait4(-1, NULL, WNOHANG, NULL) > 0: pass; goto wait
          if s <= 0: goto wait
          exit(0)
"""

from __future__ import annotations

import platform
import struct
from typing import Final

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56  # ELF header and one program header
_X86_64: Final = 62
_AARCH64: Final = 183

# SIGINT (2), SIGTERM (15), SIGCHLD (17): bit number is the signal less one.
_MASK: Final = 1 << 1 | 1 << 14 | 1 << 16

_X86_64_CODE: Final = bytes.fromhex(
    "68 02400100"  # push  0x14002          the mask
    "6a08 415a"  #   push 8; pop r10        its size
    "31d2"  #        xor  edx, edx          no old mask
    "4889e6"  #      mov  rsi, rsp          the mask's address
    "31ff"  #        xor  edi, edi          SIG_BLOCK
    "6a0e 58"  #     push 14; pop rax       rt_sigprocmask
    "0f05"  #        syscall
    # wait: (22)
    "4889e7"  #      mov  rdi, rsp
    "31f6"  #        xor  esi, esi          no siginfo
    "31d2"  #        xor  edx, edx          no timeout
    "6a08 415a"  #   push 8; pop r10
    "b880000000"  #  mov  eax, 128          rt_sigtimedwait
    "0f05"  #        syscall
    "83f811"  #      cmp  eax, 17           SIGCHLD?
    "740b"  #        je   reap
    "85c0"  #        test eax, eax
    "7ee5"  #        jle  wait              interrupted
    "31ff"  #        xor  edi, edi
    "6a3c 58"  #     push 60; pop rax       exit
    "0f05"  #        syscall
    # reap: (56)
    "6aff 5f"  #     push -1; pop rdi       any child
    "31f6"  #        xor  esi, esi          status unwanted
    "6a01 5a"  #     push 1; pop rdx        WNOHANG
    "4531d2"  #      xor  r10d, r10d        usage unwanted
    "6a3d 58"  #     push 61; pop rax       wait4
    "0f05"  #        syscall
    "85c0"  #        test eax, eax
    "7fec"  #        jg   reap
    "ebc8"  #        jmp  wait
)

_AARCH64_CODE: Final = struct.pack(
    "<27I",
    0xD2880049,  # mov  x9, #0x4002
    0xF2A00029,  # movk x9, #1, lsl #16     the mask
    0xF81F0FE9,  # str  x9, [sp, #-16]!
    0xD2800000,  # mov  x0, #0              SIG_BLOCK
    0x910003E1,  # mov  x1, sp
    0xD2800002,  # mov  x2, #0
    0xD2800103,  # mov  x3, #8
    0xD28010E8,  # mov  x8, #135            rt_sigprocmask
    0xD4000001,  # svc  #0
    # wait: (9)
    0x910003E0,  # mov  x0, sp
    0xD2800001,  # mov  x1, #0
    0xD2800002,  # mov  x2, #0
    0xD2800103,  # mov  x3, #8
    0xD2801128,  # mov  x8, #137            rt_sigtimedwait
    0xD4000001,  # svc  #0
    0x7100441F,  # cmp  w0, #17             SIGCHLD?
    0x540000C0,  # b.eq reap (+6)
    0x7100001F,  # cmp  w0, #0
    0x54FFFEED,  # b.le wait (-9)
    0xD2800000,  # mov  x0, #0
    0xD2800BA8,  # mov  x8, #93             exit
    0xD4000001,  # svc  #0
    # reap: (22)
    0x92800000,  # mov  x0, #-1             any child
    0xD2800001,  # mov  x1, #0
    0xD2800022,  # mov  x2, #1              WNOHANG
    0xD2800003,  # mov  x3, #0
    0xD2802088,  # mov  x8, #260            wait4
) + struct.pack(
    "<4I",
    0xD4000001,  # svc  #0
    0x7100001F,  # cmp  w0, #0
    0x54FFFF2C,  # b.gt reap (-7)
    0x17FFFFEB,  # b    wait (-21)
)

_PROGRAMS: Final = {"x86_64": (_X86_64, _X86_64_CODE), "aarch64": (_AARCH64, _AARCH64_CODE)}


def program(machine: str = "") -> bytes:
    """The ELF file for `machine` (this one's by default); raises KeyError for one without a listing."""
    number, code = _PROGRAMS[machine or platform.machine()]
    return _elf(number, code)


def _elf(machine: int, code: bytes) -> bytes:
    """A static executable of one loadable segment that holds headers and code."""
    entry = _BASE + _HEADERS
    size = _HEADERS + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bit, little endian, version 1
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    return header + segment + code
