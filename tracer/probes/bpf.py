"""bpf(2): maps, programs and raw tracepoints, without a library.

The layouts are those of union bpf_attr (include/uapi/linux/bpf.h); fields
that a call does not need are left out at its end, as the kernel allows.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import re
import resource
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_NR_BPF = 321  # x86-64

# enum bpf_cmd
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD = 0, 1, 2, 5
_RAW_TRACEPOINT_OPEN, _BTF_LOAD, _LOOKUP_BATCH, _LOOKUP_AND_DELETE_BATCH = 17, 18, 24, 25
_UPDATE_BATCH, _DELETE_BATCH = 26, 27
_BPF_EXIST = 2  # of an update's flags

ARRAY = 2  # enum bpf_map_type
MMAPABLE = 1 << 10  # of its flags

# enum bpf_prog_type and bpf_attach_type
KPROBE, PERF_EVENT, RAW_TRACEPOINT, TRACING = 2, 7, 17, 26
FENTRY, FEXIT = 24, 25

_MAP = struct.Struct("<7I16s")  # type, key, value, entries, flags, inner fd, node, name
_ELEMENT = struct.Struct("<I4x3Q")  # map, key, value, flags
_BATCH = struct.Struct("<4Q2I2Q")  # in, out, keys, values, count, map, element flags, flags
# type, instructions, log, kernel version, flags, name, …, attach type, BTF, functions, …, BTF id
_PROGRAM = struct.Struct("<IIQQIIQII16sIIIIQIIQII")
_TRACEPOINT = struct.Struct("<QI4x")  # name, program
_BTF = struct.Struct("<QQIII4x")  # types, log, size, size of the log, its level
_FUNC_INFO = 8  # bytes of a struct bpf_func_info

_LOG_BYTES = 1 << 20
_LOG_STATISTICS = 4  # its level, BPF_LOG_STATS; why a program is refused is logged with any
_AT_ONCE = 4096  # elements of a map read by one call
_CALL, _PSEUDO_KFUNC = 0x85, 2  # BPF_JMP | BPF_CALL, and its source register
_ATOMIC, _COMPARE_AND_SWAP = 0xDB, 0xF1  # BPF_STX | BPF_ATOMIC | BPF_DW, and its operation
_EMPTY = struct.pack("<QQ", 0xB7, 0x95)  # r0 = 0; exit

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The kernel refused a map or a program; `log` is the verifier's, where it has one."""

    log: str = ""


@dataclass(frozen=True)
class Map:
    """A BPF map: its descriptor and the size in bytes of a key and of a value."""

    fd: int
    key_size: int
    value_size: int

    def update(self, key: bytes, value: bytes, *, only_existing: bool = False) -> None:
        """Set an element; raises OSError (E2BIG: the map is full, ENOENT: it is not there)."""
        keys, values = _buffer(key), _buffer(value)
        where = ctypes.addressof(keys), ctypes.addressof(values)
        _bpf(_MAP_UPDATE, _ELEMENT.pack(self.fd, *where, _BPF_EXIST if only_existing else 0))

    def lookup(self, key: bytes, copies: int = 1) -> bytes | None:
        """The value of `key`; None where there is none.

        `copies`: of a per-CPU map, the number of possible CPUs; their values
        follow each other, each in a multiple of 8 bytes.
        """
        size = self.value_size if copies == 1 else -(-self.value_size // 8) * 8 * copies
        value = ctypes.create_string_buffer(size)
        try:
            self.lookup_into(key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def lookup_into(self, key: bytes, value: "ctypes.Array[ctypes.c_char]") -> None:
        """Read the value of `key` into a buffer large enough. FileNotFoundError: no such key."""
        keys = _buffer(key)
        where = ctypes.addressof(keys), ctypes.addressof(value)
        _bpf(_MAP_LOOKUP, _ELEMENT.pack(self.fd, *where, 0))

    def update_many(self, keys: bytes, values: bytes) -> None:
        """Set elements, keys and values one behind another. Raises OSError (E2BIG: it is full)."""
        self._change_many(_UPDATE_BATCH, _buffer(keys), _buffer(values), len(keys))

    def remove_many(self, keys: bytes) -> None:
        """Remove elements, keys one behind another; those that are not there are passed over."""
        while keys:
            done = self._change_many(_DELETE_BATCH, _buffer(keys), None, len(keys))
            keys = keys[(done + 1) * self.key_size :]  # it stopped at the next one

    def _change_many(self, command: int, keys: Any, values: Any, size: int) -> int:
        """How many were changed, up to one that is not there."""
        where = 0, 0, ctypes.addressof(keys), ctypes.addressof(values) if values else 0
        attr = _buffer(_BATCH.pack(*where, size // self.key_size, self.fd, 0, 0))
        with contextlib.suppress(FileNotFoundError):
            _bpf_into(command, attr)
        return int(_BATCH.unpack(attr.raw)[4])

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The elements of a hash map, in no order."""
        yield from self._batches(_LOOKUP_BATCH)

    def drain(self) -> Iterator[tuple[bytes, bytes]]:
        """The elements of a hash map, removed in batches as they are read."""
        yield from self._batches(_LOOKUP_AND_DELETE_BATCH)

    def clear(self) -> None:
        """Remove all elements of a hash map."""
        for _ in self.drain():
            pass

    def memory(self) -> mmap.mmap:
        """The value of a one-element MMAPABLE array, shared with the kernel."""
        return mmap.mmap(self.fd, self.value_size)

    def _batches(self, command: int) -> Iterator[tuple[bytes, bytes]]:
        room, start = _AT_ONCE, None
        token = ctypes.create_string_buffer(8)
        while True:
            keys = ctypes.create_string_buffer(self.key_size * room)
            values = ctypes.create_string_buffer(self.value_size * room)
            since = ctypes.addressof(token) if start is not None else 0
            places = ctypes.addressof(token), ctypes.addressof(keys), ctypes.addressof(values)
            if start is not None:
                token.raw = start
            attr = _buffer(_BATCH.pack(since, *places, room, self.fd, 0, 0))
            last = False
            try:
                _bpf_into(command, attr)
            except FileNotFoundError:  # that was the last batch
                last = True
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                room *= 2  # one bucket holds more than that
                continue
            start = token.raw
            count = _BATCH.unpack(attr.raw)[4]
            yield from zip(
                _pieces(keys.raw, self.key_size, count),
                _pieces(values.raw, self.value_size, count),
                strict=True,
            )
            if last:
                return


def create_map(kind: int, key: int, value: int, entries: int, flags: int, name: str) -> Map:
    """A new map; sizes in bytes. Raises Refused."""
    attr = _MAP.pack(kind, key, value, entries, flags, 0, 0, name.encode()[:15])
    return Map(_with_memory(_MAP_CREATE, attr), key, value)


def load_btf(types: bytes) -> int:
    """Load BTF of our own; returns the descriptor. Raises Refused."""
    data = _buffer(types)
    return _with_memory(_BTF_LOAD, _BTF.pack(ctypes.addressof(data), 0, len(types), 0, 0))


def load_program(
    kind: int,
    code: bytes,
    name: str,
    attach_type: int = 0,
    btf_id: int = 0,
    functions: tuple[int, bytes] = (0, b""),
) -> int:
    """Load a program; returns the descriptor. Raises Refused with the verifier's log.

    `functions`: of a program with several, the descriptor of their BTF and their bpf_func_info.
    """
    attr = _Loading(kind, code, name, attach_type, btf_id, functions)
    try:
        return _with_memory(_PROG_LOAD, attr())
    except Refused as refused:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _bpf(_PROG_LOAD, attr(log))
        except OSError:
            refused.log = log.value.decode("utf-8", "replace")
        raise


def verified(
    kind: int,
    code: bytes,
    name: str,
    attach_type: int = 0,
    btf_id: int = 0,
    functions: tuple[int, bytes] = (0, b""),
) -> int:
    """How many instructions the verifier follows to check this program. Raises OSError."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attr = _Loading(kind, code, name, attach_type, btf_id, functions)
    os.close(_bpf(_PROG_LOAD, attr(log)))
    found = re.search(rb"processed (\d+) insns", log.value)
    return int(found[1]) if found is not None else 0


class _Loading:
    """The attributes of a program to be loaded, with the buffers that they refer to."""

    def __init__(
        self,
        kind: int,
        code: bytes,
        name: str,
        attach_type: int,
        btf_id: int,
        functions: tuple[int, bytes],
    ) -> None:
        self._kind, self._size = kind, len(code) // 8
        self._buffers = [_buffer(each) for each in (code, b"GPL\0", functions[1])]
        count = len(functions[1]) // _FUNC_INFO
        infos = ctypes.addressof(self._buffers[2])
        described = (functions[0], _FUNC_INFO, infos, count) if count else (0,) * 4
        self._named = (name.encode()[:15], 0, attach_type, *described, 0, 0, 0, btf_id)

    def __call__(self, log: "ctypes.Array[ctypes.c_char] | None" = None) -> bytes:
        where = (0, 0, 0)
        if log is not None:
            where = (_LOG_STATISTICS, len(log), ctypes.addressof(log))
        places = [ctypes.addressof(each) for each in self._buffers[:2]]
        return _PROGRAM.pack(self._kind, self._size, *places, *where, 0, 0, *self._named)


def open_raw_tracepoint(program: int, name: str = "") -> int:
    """Attach to tracepoint `name`, a tracing program to its function; detached when closed."""
    text = _buffer(name.encode() + b"\0")
    return _bpf(
        _RAW_TRACEPOINT_OPEN, _TRACEPOINT.pack(ctypes.addressof(text) if name else 0, program)
    )


def refuses_tracing(btf_id: int) -> str:
    """Why this kernel refuses fentry on that function: tried with an empty program; else ""."""
    try:
        program = load_program(TRACING, _EMPTY, "attempt", FENTRY, btf_id)
    except OSError as error:
        return f"tracing programs are refused: {os.strerror(error.errno or 0)}"
    try:
        os.close(open_raw_tracepoint(program))
    except OSError as error:
        return f"trampolines are refused: {os.strerror(error.errno or 0)}"
    finally:
        os.close(program)
    return ""


def supports_casts(function: int, type_id: int) -> bool:
    """Whether programs may call bpf_rdonly_cast (BTF ids of it and of a struct): tried with one."""
    call = struct.pack("<BBhi", _CALL, _PSEUDO_KFUNC << 4, 0, function)
    arguments = struct.pack("<BBhiBBhi", 0xB7, 1, 0, 0, 0xB7, 2, 0, type_id)  # r1 = 0; r2 = id
    return _loads(arguments + call)


def _loads(code: bytes) -> bool:
    try:
        program = load_program(RAW_TRACEPOINT, code + _EMPTY, "attempt")
    except OSError:
        return False
    os.close(program)
    return True


def supports_atomics() -> bool:
    """Whether programs may compare and swap (since 5.12): tried with one."""
    # The stack's last word and r0 are 0; r1 = r10; compare the word with r0, and swap in r0.
    code = struct.pack(
        "<BBhiBBhiBBhiBBhi",
        *(0x7A, 10, -8, 0),
        *(0xB7, 0, 0, 0),
        *(0xBF, 10 << 4 | 1, 0, 0),
        *(_ATOMIC, 0 << 4 | 1, -8, _COMPARE_AND_SWAP),
    )
    return _loads(code)


def with_kernel_calls(code: bytes, helper: int, function: int) -> bytes:
    """Instructions with calls of helper number `helper` replaced by calls of a kernel function."""
    out = bytearray(code)
    for at in range(0, len(out), 8):
        operation, registers, _, number = struct.unpack_from("<BBhi", out, at)
        if operation == _CALL and registers >> 4 == 0 and number == helper:
            struct.pack_into("<BBhi", out, at, _CALL, _PSEUDO_KFUNC << 4, 0, function)
    return bytes(out)


def patched(code: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    """Instructions with map descriptors inserted; `places`: (instruction number, descriptor)."""
    out = bytearray(code)
    for number, fd in places:
        struct.pack_into("<i", out, 8 * number + 4, fd)
    return bytes(out)


def _with_memory(command: int, attr: bytes) -> int:
    """bpf(2), retried with RLIMIT_MEMLOCK lifted: up to 5.10, maps count against it."""
    try:
        return _bpf(command, attr)
    except OSError as error:
        first = error
        if error.errno not in (errno.EPERM, errno.ENOMEM):
            raise _refused(error) from None
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
        return _bpf(command, attr)
    except ValueError:  # not allowed: the first error is the reason
        if _counts_as_locked() and before[0] != resource.RLIM_INFINITY:
            first = OSError(errno.ENOMEM, "")
        raise _refused(first) from None
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
        raise _refused(error) from None


def _counts_as_locked() -> bool:
    """Whether BPF memory counts as locked, so that EPERM means RLIMIT_MEMLOCK is too low.

    Up to 5.10 (bpf_charge_memlock, kernel/bpf/syscall.c); since then control groups count it.
    """
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) < (5, 11)


def _refused(error: OSError) -> Refused:
    number = error.errno or errno.EPERM
    return Refused(number, os.strerror(number))


def _bpf(command: int, attr: bytes) -> int:
    return _bpf_into(command, _buffer(attr))


def _bpf_into(command: int, attr: "ctypes.Array[ctypes.c_char]") -> int:
    """bpf(2), which may write into `attr`. Raises OSError."""
    result = int(_libc.syscall(_NR_BPF, command, attr, len(attr)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _pieces(data: bytes, size: int, count: int) -> Iterator[bytes]:
    return (data[at * size : (at + 1) * size] for at in range(count))


def _buffer(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(data, len(data))
