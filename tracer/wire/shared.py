"""Constants and struct layouts shared with the BPF programs, defined by bpf/shared.h.

The layouts of its structs are derived from the header, so a member that moves there moves here.
The constants are below, for use before a program is loaded; `parse` refuses a header that lacks
one of them or gives it another value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracer.common.errors import Exit, TraceError

HEADER = "shared.h"

# fault_record.flags and .result
FAULT_FLAG_WRITE, FAULT_FLAG_USER = 0x01, 0x40
ERROR_CODE_WRITE, ERROR_CODE_USER = 0x02, 0x04
VM_FAULT_MAJOR, VM_FAULT_SIGSEGV = 0x04, 0x40

# window_record
WINDOW_PAGES = 16
WINDOW_CONTIGUOUS, WINDOW_UNKNOWN = 0x01, 0x02

STACK_USER, COPIED_BELOW = 127, 128  # user frames at most; bytes of a copy below sp
PYTHON_FRAMES, PYTHON_ENTRY, PYTHON_TEXT = 127, 1 << 32, 512
PYTHON_NONE, PYTHON_WHOLE, PYTHON_LIMIT, PYTHON_UNREADABLE, PYTHON_SEVERAL = 0, 1, 2, 3, 4
RULE_CODE = 1 << 62  # apart from what is relative to mmap_base

# syscall_record.number and .args
CALL_MMAP, CALL_MUNMAP, CALL_BRK, CALL_MREMAP, CALL_MADVISE = 9, 11, 12, 25, 28
CALL_MLOCK, CALL_MLOCKALL, CALL_MUNLOCKALL, CALL_MLOCK2 = 149, 151, 152, 325
CALL_MPROTECT, CALL_IOCTL, CALL_PROCESS_VM_WRITEV = 10, 16, 311
CALL_MAP_FIXED, CALL_MAP_LOCKED, CALL_MAP_POPULATE = 0x10, 0x2000, 0x8000
CALL_MLOCK_ONFAULT = 1
CALL_MADV_POPULATE_READ, CALL_MADV_POPULATE_WRITE = 22, 23
UFFD_REGISTER, UFFD_UNREGISTER, UFFD_COPY, UFFD_ZEROPAGE = 0, 1, 3, 4
UFFD_MOVE, UFFD_CONTINUE = 5, 7

# Values in the programs' maps.
TARGET_ACTIVE, TARGET_WAITS, TARGET_CHILDREN = 1, 2, 4
STATE_AROUND, STATE_BESIDE, STATE_ATTEMPT, STATE_FILTER = 0x02, 0x04, 0x80, 0x400
WATCH_ON, WATCH_OVER = 1, 2
WATCHED_BEGUN, WATCHED_ENDED = 1 << 62, 1 << 63

# By number: COUNT_LOST is 0.
COUNTER_NAMES = (
    *("lost", "lost_other", "filtered", "crowded", "orphans"),
    *("failed_lost", "failed_filtered", "foreign_lost", "foreign_filtered"),
    *("unlisted", "handler_calls", "events", "copies_lost"),
)

# Offsets for MappedRing (ring.py), which works without a header.
POSITION_OF = {
    ("positions", "head"): 0,
    ("positions", "tail"): 128,
    ("fault_record", "sequence"): 4,
}

# Members of map values that user space reads or sets.
_MEMBERS = {
    "target": "leader state",
    "program": "own shared libraries code_start code_end mmap_base mapped",
    "python_runtime": "address in_executable version interpreters next threads thread_before"
    " thread_next thread_interp thread_id thread_frame frame_within within_before frame_code"
    " frame_caller frame_at frame_owner frame_entry code_file code_name code_lines"
    " code_line code_version code_start code_from code_bytes",
    "settings": "direct_map range_start range_end min_latency_ns namespace namespace_level always"
    " anonymous",
    "command": "tgid mm",
    "calibration": "nonce address direct_map symbol pgd entry level value namespace"
    " namespace_level",
    "positions": "head tail mask",
    "pending": "state task tid first seen",
    "totals": "begun ended faults base blind",
    "leaving": "id count",
}

_NUMBERS = {
    **{name: each for name, each in globals().items() if name.isupper() and isinstance(each, int)},
    **{f"COUNT_{name.upper()}": number for number, name in enumerate(COUNTER_NAMES)},
    "COUNTERS": len(COUNTER_NAMES),
}

_WIDTHS = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8"}
_LARGEST = 1 << 16  # bytes of a struct
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"^#define (\w+)[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"(0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,18})|\(1ULL << ([0-9]{1,2})\)")
_STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\};", re.DOTALL | re.MULTILINE)
_MEMBER = re.compile(r"(u8|u16|u32|u64|struct \w+)\s+(\w+)(?:\[([0-9]{1,5})\])?", re.ASCII)

Struct = np.dtype[np.void]


@dataclass(frozen=True)
class Shared:
    """The header's numbers, and its structs as numpy lays them out."""

    numbers: dict[str, int]
    structs: dict[str, Struct]


def parse(header: str) -> Shared:
    """Definitions of bpf/shared.h (its text); raises TraceError where they differ from ours."""
    text = _COMMENT.sub("", header)
    shared = Shared({name: _number(name, value) for name, value in _DEFINE.findall(text)}, {})
    for name, body in _STRUCT.findall(text):
        shared.structs[name] = _struct(name, body, shared.structs)
    agree(shared, _NUMBERS, "tracer/wire/shared.py")
    for name, members in _MEMBERS.items():
        for member in members.split():
            _offset(shared, name, member)
    for (name, member), expected in POSITION_OF.items():
        if (offset := _offset(shared, name, member)) != expected:
            raise _disagree(
                "tracer/wire/shared.py", f"the offset of {name}.{member}", offset, expected
            )
    return shared


def agree(shared: Shared, ours: Mapping[str, int], where: str) -> None:
    """Raise TraceError unless the header has each of our numbers as `where` has it."""
    for name, value in ours.items():
        if (theirs := shared.numbers.get(name)) != value:
            raise _disagree(where, name, theirs, value)


def pack(struct: Struct, **members: int) -> bytes:
    """A value with these members, and 0 for the others."""
    made = np.zeros(1, struct)
    for name, value in members.items():
        made[name] = value
    return made.tobytes()


def unpack(struct: Struct, data: bytes) -> dict[str, int]:
    """The members of a value, all of them numbers."""
    row = np.frombuffer(data, struct, 1)[0]
    return {name: int(row[name]) for name in struct.names or ()}


def _number(name: str, text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise TraceError(f"bpf/{HEADER}: {name} is no number we can read: {text}")
    return int(match[1], 0) if match[1] else 1 << int(match[2])


def _struct(name: str, body: str, structs: Mapping[str, Struct]) -> Struct:
    members: dict[str, np.dtype[np.generic]] = {}
    offset = 0
    for line in body.split(";")[:-1]:
        match = _MEMBER.fullmatch(line.strip())
        if match is None:
            raise TraceError(f"bpf/{HEADER}: {name} has a member we cannot read: {line.strip()}")
        kind, member, count = match.groups()
        single = _kind(kind, structs)
        if offset % _alignment(single):
            raise TraceError(f"bpf/{HEADER}: {name}.{member} is not naturally aligned")
        offset += single.itemsize * int(count or 1)
        if member in members or offset > _LARGEST:
            raise TraceError(f"bpf/{HEADER}: {name}.{member} is there twice, or too large")
        members[member] = np.dtype((single, (int(count),))) if count else single
    made = np.dtype(list(members.items()))
    if made.itemsize % _alignment(made):
        raise TraceError(f"bpf/{HEADER}: {name} ends with padding")
    return made


def _kind(kind: str, structs: Mapping[str, Struct]) -> np.dtype[np.generic]:
    word, _, name = kind.partition(" ")
    if not name:
        return np.dtype("<" + _WIDTHS[word])
    if name not in structs:
        raise TraceError(f"bpf/{HEADER}: {kind} is not defined above")
    return structs[name]


def _alignment(kind: np.dtype[np.generic]) -> int:
    """Alignment as in C: a struct has that of its largest member."""
    if kind.subdtype is not None:
        return _alignment(kind.subdtype[0])
    if kind.fields is None:
        return kind.itemsize
    return max((_alignment(each[0]) for each in kind.fields.values()), default=1)


def _offset(shared: Shared, name: str, member: str) -> int:
    struct = shared.structs.get(name)
    if struct is None or struct.fields is None or member not in struct.fields:
        what = f"struct {name}" if struct is None else f"{name}.{member}"
        raise TraceError(f"bpf/{HEADER} does not define {what}")
    return int(struct.fields[member][1])


def _disagree(where: str, what: str, theirs: int | None, ours: int) -> TraceError:
    return TraceError(
        f"bpf/{HEADER} and {where} disagree: {what} is {theirs} in the header, {ours} here",
        "install the two from one version",
        Exit.TRACER_FAILED,
    )
