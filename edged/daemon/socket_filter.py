"""What Landlock's port rules leave open to a process, refused by a filter of system calls.

Landlock looks at ``connect`` of TCP sockets. MPTCP and datagrams are not TCP to it, the first data
of TCP Fast Open make a connection without ``connect``, and io_uring sends them past any filter.

Source: seccomp(2), linux/filter.h, linux/audit.h.
"""

import ctypes
import errno
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# BPF: load a word of the call's data, AND, jump if equal, jump if any bit is set, return.
_LOAD, _AND, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS, _ARGUMENT_BYTES = 0, 4, 16, 8
_SOCKET_TYPES = 0xF
_IO_URING_SETUP = 425
# In the number of a system call of x32, whose architecture is that of x86-64.
_X32 = 0x40000000


@dataclass(frozen=True, slots=True)
class _Calls:
    """Numbers of one architecture."""

    architecture: int
    socket: int
    sendto: int
    sendmsg: int
    sendmmsg: int


_CALLS = {
    "x86_64": _Calls(0xC000003E, 41, 44, 46, 307),
    "aarch64": _Calls(0xC00000B7, 198, 206, 211, 269),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


_Code = list[tuple[int, int, int, int]]


def refuse_other_sockets(*, has_datagrams: bool) -> bool:
    """Refuse this thread, and what it starts, internet sockets but plain TCP; return success.

    The process has no new privileges already.

    Args:
        has_datagrams: Whether names are looked up, which takes UDP.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    code = _program(calls, has_datagrams=has_datagrams)
    instructions = (_Instruction * len(code))(*(_Instruction(*fields) for fields in code))
    program = _Program(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    is_set = libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(program), 0, 0) == 0
    # A reload keeps the process and its filters, and adds one: after some hundreds no more fit, and
    # those that are there hold.
    return is_set or ctypes.get_errno() == errno.ENOMEM


def _program(calls: _Calls, *, has_datagrams: bool) -> _Code:
    stream, datagram = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
    new_socket = [
        _argument(0),
        *_one_of((socket.AF_INET, socket.AF_INET6), otherwise=_ALLOW),
        _argument(1),
        (_AND, 0, 0, _SOCKET_TYPES),
        *_one_of((stream, datagram) if has_datagrams else (stream,), otherwise=_REFUSE),
        _argument(2),
        *_one_of((0, socket.IPPROTO_TCP, socket.IPPROTO_UDP), otherwise=_REFUSE),
        _return(_ALLOW),
    ]
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        # The numbers of another one, such as i386 or x32, would pass what follows.
        *_one_of((calls.architecture,), otherwise=_REFUSE),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_SET, 0, 1, _X32),
        _return(_REFUSE),
        *_call(calls.socket, new_socket),
        *_call(calls.sendto, _without_fast_open(3)),
        *_call(calls.sendmsg, _without_fast_open(2)),
        *_call(calls.sendmmsg, _without_fast_open(3)),
        *_call(_IO_URING_SETUP, [_return(_REFUSE)]),
        _return(_ALLOW),
    ]


def _call(number: int, code: _Code) -> _Code:
    """Return code that runs only for this call, and ends with a return."""
    return [(_LOAD, 0, 0, _NUMBER), (_JUMP_EQUAL, 0, len(code), number), *code]


def _without_fast_open(flags: int) -> _Code:
    fast_open = (_JUMP_SET, 0, 1, socket.MSG_FASTOPEN)
    return [_argument(flags), fast_open, _return(_REFUSE), _return(_ALLOW)]


def _one_of(values: Sequence[int], *, otherwise: int) -> _Code:
    """Return code that goes on for these values, and returns for others."""
    jumps = [(_JUMP_EQUAL, len(values) - i, 0, int(value)) for i, value in enumerate(values)]
    return [*jumps, _return(otherwise)]


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half, on both little-endian architectures, of an argument."""
    return _LOAD, 0, 0, _ARGUMENTS + _ARGUMENT_BYTES * index


def _return(result: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, result
