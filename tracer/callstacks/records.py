"""Stacks and copies of stacks as the kernel sends them (bpf/shared.h)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from tracer.callstacks.unwinding import Copy, End
from tracer.common.types import U64
from tracer.wire.shared import (
    PYTHON_ENTRY,
    PYTHON_LIMIT,
    PYTHON_NONE,
    PYTHON_SEVERAL,
    PYTHON_UNREADABLE,
    PYTHON_WHOLE,
    STACK_USER,
)

_COPY = struct.Struct("<8QIIQ")  # struct stack_copy
_NUMBER_SHIFT = 56  # of a frame, in the word of a call of the evaluation loop
_ADDRESS = (1 << _NUMBER_SHIFT) - 1
_ENDS = struct.Struct("<Q16xQQ24xI4xQ")  # some of it


class PythonEnd(IntEnum):
    """Where the walk of Python's frames ended (bpf/shared.h: PYTHON_…)."""

    NONE = PYTHON_NONE
    WHOLE = PYTHON_WHOLE
    LIMIT = PYTHON_LIMIT
    UNREADABLE = PYTHON_UNREADABLE
    SEVERAL = PYTHON_SEVERAL


@dataclass(frozen=True, slots=True)
class Raw:
    """A stack as the kernel sends it."""

    tgid: int
    mm: int
    kernel: U64
    user: U64
    truncated: bool
    caller: int  # a possible caller of the innermost function, where frame pointers do not show it
    end: End  # of a walk by rules
    program: int = 0


class RawPython(NamedTuple):
    """Python's frames in a stack, innermost first."""

    codes: list[int]  # python_code.number of each
    positions: list[int]  # of the instruction, in code units from the first, signed
    entries: list[bool]  # whether C code called it
    end: PythonEnd
    # Of each call of the evaluation loop: an address in its frame, and the number of that frame
    # among the native ones from the innermost on, -1 where the kernel has not walked it.
    loops: list[tuple[int, int]]


def python_of(parts: list[np.void]) -> RawPython | None:
    """The frames, once all their parts are there."""
    head = parts[0]
    count, called = int(head["user"]), int(head["kernel"])
    words: list[int] = []
    for number, part in enumerate(parts):
        if int(part["first"]) != number:
            return None  # a part in between was dropped
        words += part["ips"].tolist()
    if len(words) < 2 * count + called:
        return None
    second = words[1 : 2 * count : 2]
    positions = [(each & 0xFFFFFFFF ^ 1 << 31) - (1 << 31) for each in second]
    entries = [each & PYTHON_ENTRY != 0 for each in second]
    loops = [
        (each & _ADDRESS, (each >> _NUMBER_SHIFT) - 1)
        for each in words[2 * count : 2 * count + called]
    ]
    end = PythonEnd(int(head["caller"]))
    return RawPython(words[: 2 * count : 2], positions, entries, end, loops)


def assembled(parts: list[np.void]) -> Raw | None:
    """The whole stack, once all its parts are there."""
    head = parts[0]
    kernel, user = int(head["kernel"]), int(head["user"])
    ips = np.zeros(kernel + user, np.uint64)
    known = 0
    for part in parts:
        first, room = int(part["first"]), len(part["ips"])
        end = kernel if first < kernel else kernel + user
        count = max(0, min(room, end - first))
        if first != known:
            return None  # a part in between was dropped
        ips[first : first + count] = part["ips"][:count]
        known += count
    if known < kernel + user:
        return None
    mine = ips[kernel:]
    whose = int(head["tgid"]), int(head["mm"])
    caller = int(head["caller"])
    by_rules = caller in set(End)
    end = End(caller) if by_rules else End.NOT_WALKED
    if end == End.NOT_WALKED:
        mine = mine[mine > np.uint64(0xFFF)]  # a frame pointer of 0 ends the chain: no code
    return Raw(
        *whose,
        ips[:kernel],
        mine,
        len(mine) >= STACK_USER,
        0 if by_rules else caller,
        end,
        int(head["program"]),
    )


class Part(NamedTuple):
    """The head of a part of a copy of a stack (bpf/shared.h: struct stack_copy)."""

    stack: int
    time_ns: int
    tgid: int
    program: int
    ip: int
    sp: int
    fp: int
    bx: int
    exact: int
    size: int
    offset: int  # bytes that came before


def ends_at(record: bytes) -> tuple[int, ...]:
    """Of a part: stack, offset, program, ip, exact."""
    stack, program, ip, exact, offset = _ENDS.unpack_from(record)
    return stack, offset, program, ip, exact


def part_of(record: bytes) -> Part:
    """The head of a record of the ring."""
    return Part._make(_COPY.unpack_from(record))


def words_of(record: bytes) -> U64:
    """The words on the stack that a part has."""
    return np.frombuffer(record, "<u8", offset=_COPY.size, count=(len(record) - _COPY.size) // 8)


def copy_of(records: Sequence[bytes]) -> Copy:
    """A copy out of its parts, up to the first that is missing."""
    head = part_of(records[0])
    data = []
    size = 0
    for record in records:
        part = part_of(record)
        if part.offset != size:
            break
        data.append(record[_COPY.size : _COPY.size + part.size])
        size += part.size
    return Copy(head.ip, head.sp, head.fp, head.bx, bool(head.exact), b"".join(data))
