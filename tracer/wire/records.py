"""The Python face of bpf/record.h: numpy dtypes of the ring's records.

The header is the one definition of the layout. `load_layout` parses its
struct and #define lines, so a field added there appears here by name; the
constants below are what user space knows by meaning, checked against the
header at start-up (`check_layout`).
"""

import re
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np

from tracer.common.errors import Exit, TraceError


class RecordType(IntEnum):
    FAULT = 1
    WINDOW = 2
    FORK = 3
    EXEC = 4
    EXIT = 5
    FREE = 6
    RENAME = 7
    SYSCALL = 8
    CALL = 9
    STACK = 10
    FILLED = 11


class Mark(IntFlag):
    """fault_record.marks: what is known of a fault."""

    BEFORE = 0x01
    AFTER = 0x02
    MAPPING = 0x04
    ENTRY = 0x08
    FAILED = 0x10
    ANON_FN = 0x20
    FOREIGN = 0x40
    ERRORCODE = 0x80


_WIDTHS = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8"}
_STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\};", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"(u8|u16|u32|u64)\s+(\w+)(?:\[(\d+)\])?")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"^#define ((?:RECORD|MARK)_\w+)\s+(0x[0-9a-fA-F]+|\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """dtypes of the five record shapes, each exactly `size` bytes, and the header's constants."""

    size: int
    fault: np.dtype[np.void]
    window: np.dtype[np.void]
    task: np.dtype[np.void]
    syscall: np.dtype[np.void]
    stack: np.dtype[np.void]
    constants: dict[str, int]


def parse_layout(header: str) -> Layout:
    """The layout that bpf/record.h (its text) defines; raises TraceError where we know another."""
    constants = {name: int(value, 0) for name, value in _DEFINE.findall(header)}
    try:
        size = constants["RECORD_SIZE"]
        shapes = {name: _dtype(name, body, size) for name, body in _STRUCT.findall(header)}
        layout = Layout(
            size=size,
            fault=shapes["fault_record"],
            window=shapes["window_record"],
            task=shapes["task_record"],
            syscall=shapes["syscall_record"],
            stack=shapes["stack_record"],
            constants=constants,
        )
    except KeyError as missing:
        raise TraceError(f"bpf/record.h does not define {missing.args[0]}") from None
    check_layout(layout)
    return layout


def _dtype(name: str, body: str, size: int) -> np.dtype[np.void]:
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    offset = 0
    for line in _COMMENT.sub("", body).split(";")[:-1]:
        match = _FIELD.fullmatch(line.strip())
        if match is None:
            raise TraceError(f"bpf/record.h: {name} has a field we cannot read: {line.strip()}")
        ctype, field, count = match.groups()
        kind = _WIDTHS[ctype]
        width = int(kind[1])
        if offset % width:
            raise TraceError(f"bpf/record.h: {name}.{field} is not naturally aligned")
        offset += width * int(count or 1)
        fields.append((field, "<" + kind, (int(count),)) if count else (field, "<" + kind))
    if offset != size:
        raise TraceError(f"bpf/record.h: {name} takes {offset} bytes, RECORD_SIZE is {size}")
    return np.dtype(fields)


def check_layout(layout: Layout) -> None:
    """Raise TraceError unless every enum member here has the value the header gives it."""
    for prefix, members in (("RECORD", RecordType), ("MARK", Mark)):
        for member in members:
            theirs = layout.constants.get(f"{prefix}_{member.name}")
            if theirs != member.value:
                raise TraceError(
                    f"bpf/record.h and tracer/wire/records.py disagree: {prefix}_{member.name} "
                    f"is {theirs} in the header, {member.value} here",
                    "install the two from one version",
                    Exit.TRACER_FAILED,
                )


def load_layout(bpf_dir: Path) -> Layout:
    """`parse_layout` of the header in `bpf_dir`."""
    return parse_layout((bpf_dir / "record.h").read_text())
