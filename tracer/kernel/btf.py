"""Offsets of struct members, and ids of types and functions, from BTF through libbpf.

The kernel describes its own types in /sys/kernel/btf/vmlinux
(CONFIG_DEBUG_INFO_BTF; Documentation/bpf/btf.rst). libbpf, a dependency of
BCC's package, finds a type by name in about a millisecond; the few member
lists that matter are walked here. No kernel headers are needed.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.text import decode

VMLINUX = Path("/sys/kernel/btf/vmlinux")

# 0.x has the same calls, but returns errors as pointers in the last page (ERR_PTR).
_LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
_LAST_PAGE = (1 << 8 * ctypes.sizeof(ctypes.c_void_p)) - 4096

# BTF_KIND_* of include/uapi/linux/btf.h
_STRUCT, _UNION, _ENUM, _TYPEDEF = 4, 5, 6, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _TYPE_TAG, _ENUM64 = 9, 10, 11, 12, 18, 19
_DEEPEST = 64  # nesting of anonymous members, and of typedefs; kernels have five or so
_SAME_LAYOUT = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}


class _Type(ctypes.Structure):
    """struct btf_type"""

    _fields_ = [("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32)]


class _Member(ctypes.Structure):
    """struct btf_member"""

    _fields_ = [("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32)]


class _Enum(ctypes.Structure):
    """struct btf_enum"""

    _fields_ = [("name", ctypes.c_uint32), ("value", ctypes.c_int32)]


class _Enum64(ctypes.Structure):
    """struct btf_enum64"""

    _fields_ = [("name", ctypes.c_uint32), ("low", ctypes.c_uint32), ("high", ctypes.c_uint32)]


Shape = TypeVar("Shape", bound=ctypes.Structure)


class Btf(Closing):
    """The types of one BTF file, open until `close` (or the end of a `with`).

    Raises TraceError (Exit.UNSUPPORTED) where libbpf or the file is missing
    or cannot be understood.
    """

    def __init__(self, path: Path = VMLINUX) -> None:
        self._lib = _load_libbpf()
        self._btf = self._lib.btf__parse(os.fsencode(path), None)
        if not self._btf or self._btf >= _LAST_PAGE:
            self._btf = None
            why = "is not there" if not path.exists() else "cannot be read as BTF"
            raise TraceError(
                f"{path} {why}: the layout of this kernel's structures is unknown",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
                Exit.UNSUPPORTED,
            )

    def close(self) -> None:
        """Free the types. Idempotent."""
        if self._btf:
            self._lib.btf__free(self._btf)
            self._btf = None

    def offsets(self, paths: Iterable[str]) -> dict[str, int]:
        """Byte offset from the start of the struct, for each path that exists.

        A path is "struct.member" or "struct.member.member" where each member
        but the last is itself a struct or union (pointers are not followed).
        Members of anonymous structs and unions are found as C finds them.
        A struct or member this kernel lacks, and a bit-field, is absent.
        """
        found: dict[str, int] = {}
        structs: dict[str, int] = {}
        for path in paths:
            name, *members = path.split(".")
            if name not in structs:
                structs[name] = self._find(name, _STRUCT, _UNION)
            offset = self._offset(structs[name], members)
            if offset is not None:
                found[path] = offset
        return found

    def struct_size(self, name: str) -> int | None:
        """sizeof(struct name) in bytes, or None where this kernel has no such struct."""
        number = self._find(name, _STRUCT, _UNION)
        return int(self._type(number).size) if number > 0 else None

    def struct_id(self, name: str) -> int:
        """The type number of struct `name`; 0 where BTF has none."""
        return self._find(name, _STRUCT)

    def function_id(self, name: str) -> int:
        """The type number of the function `name`, by which fentry hooks it; 0 where BTF has none.

        0 also where the compiler inlined it everywhere. A number does not
        mean that the kernel allows hooking it.
        """
        return self._find(name, _FUNC)

    def enum_value(self, enum: str, member: str) -> int | None:
        """The value of `member` in `enum enum`, or None where either is missing."""
        number = self._find(enum, _ENUM, _ENUM64)
        if number <= 0:
            return None
        kind, count, signed = _unpack(self._type(number).info)
        if kind == _ENUM64:
            for wide in self._entries(number, _Enum64, count):
                if self._name(wide.name) == member:
                    value = int(wide.high) << 32 | int(wide.low)
                    return value - (1 << 64) if signed and value >> 63 else value
            return None
        for entry in self._entries(number, _Enum, count):
            if self._name(entry.name) == member:
                return int(entry.value) if signed else int(entry.value) & 0xFFFFFFFF
        return None

    def _find(self, name: str, *kinds: int) -> int:
        for kind in kinds:
            number = int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind))
            if number > 0:
                return number
        return 0

    def _offset(self, number: int, members: list[str]) -> int | None:
        if number <= 0 or not members:
            return None
        total = 0
        for member in members:
            place = self._member(number, member)
            if place is None:
                return None
            total += place[0]
            number = place[1]
        return total

    def _member(self, number: int, wanted: str, depth: int = 0) -> tuple[int, int] | None:
        """(byte offset, type number) of a member, searching anonymous ones in C's order."""
        if depth > _DEEPEST:
            raise _senseless("endlessly nested structures")
        number = self._strip(number)
        kind, count, bitfields = _unpack(self._type(number).info)
        if kind not in (_STRUCT, _UNION):
            return None
        for entry in self._entries(number, _Member, count):
            width = entry.offset >> 24 if bitfields else 0
            bits = entry.offset & 0xFFFFFF if bitfields else entry.offset
            name = self._name(entry.name)
            if name == wanted:
                return None if width or bits % 8 else (bits // 8, entry.type)
            if not name:
                inner = self._member(entry.type, wanted, depth + 1)
                if inner is not None:
                    return bits // 8 + inner[0], inner[1]
        return None

    def _strip(self, number: int) -> int:
        for _ in range(_DEEPEST):
            if _unpack(self._type(number).info)[0] not in _SAME_LAYOUT:
                return number
            number = self._type(number).size  # a union with `type`: the type referred to
        raise _senseless("an endless chain of typedefs")

    def _type(self, number: int) -> _Type:
        pointer = self._lib.btf__type_by_id(self._btf, number)
        if not pointer:
            raise _senseless(f"no type of number {number}")
        return _Type.from_address(pointer)

    def _entries(self, number: int, shape: type[Shape], count: int) -> "ctypes.Array[Shape]":
        address = ctypes.addressof(self._type(number)) + ctypes.sizeof(_Type)
        return (shape * count).from_address(address)

    def _name(self, offset: int) -> str:
        return decode(self._lib.btf__name_by_offset(self._btf, offset) or b"")


def _senseless(what: str) -> TraceError:
    return TraceError(
        f"the kernel's BTF is invalid: {what}", "use another kernel", Exit.UNSUPPORTED
    )


def offsets(paths: Iterable[str]) -> dict[str, int]:
    """`Btf.offsets` of the running kernel."""
    with Btf() as btf:
        return btf.offsets(paths)


def enum_value(enum: str, member: str) -> int | None:
    """`Btf.enum_value` of the running kernel."""
    with Btf() as btf:
        return btf.enum_value(enum, member)


def _unpack(info: int) -> tuple[int, int, bool]:
    """(kind, number of members, kind_flag) of btf_type.info."""
    return info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)


def _load_libbpf() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        lib.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        lib.btf__parse.restype = ctypes.c_void_p
        lib.btf__free.argtypes = [ctypes.c_void_p]
        lib.btf__free.restype = None
        lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
        lib.btf__find_by_name_kind.restype = ctypes.c_int32
        lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        return lib
    raise TraceError(
        "libbpf is missing: the kernel's structures cannot be looked up",
        "install the libbpf package of your distribution (Debian: libbpf1)",
        Exit.UNSUPPORTED,
    )
