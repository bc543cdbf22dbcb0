"""The ring's records, as bpf/shared.h defines them: numpy dtypes, types and marks.

A field added there appears here by name; the types and marks below are checked against the
header at start-up.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np

from tracer.common.errors import TraceError
from tracer.wire.shared import HEADER, Struct, agree, parse


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
    PYTHON = 12


class Mark(IntFlag):
    """fault_record.marks: which fields of a fault are known."""

    BEFORE = 0x01
    AFTER = 0x02
    MAPPING = 0x04
    ENTRY = 0x08
    FAILED = 0x10
    ANON_FN = 0x20
    FOREIGN = 0x40
    ERRORCODE = 0x80


@dataclass(frozen=True)
class Layout:
    """dtypes of the five record structs, each `size` bytes, and the header's other definitions."""

    size: int
    fault: np.dtype[np.void]
    window: np.dtype[np.void]
    task: np.dtype[np.void]
    syscall: np.dtype[np.void]
    stack: np.dtype[np.void]
    constants: dict[str, int]
    structs: dict[str, Struct]


def parse_layout(header: str) -> Layout:
    """The layout that bpf/shared.h (its text) defines; raises TraceError where it differs here."""
    shared = parse(header)
    agree(shared, _named("RECORD", RecordType) | _named("MARK", Mark), "tracer/wire/records.py")
    try:
        size = shared.numbers["RECORD_SIZE"]
        layout = Layout(
            size=size,
            fault=shared.structs["fault_record"],
            window=shared.structs["window_record"],
            task=shared.structs["task_record"],
            syscall=shared.structs["syscall_record"],
            stack=shared.structs["stack_record"],
            constants=shared.numbers,
            structs=shared.structs,
        )
    except KeyError as missing:
        raise TraceError(f"bpf/{HEADER} does not define {missing.args[0]}") from None
    for name in ("fault", "window", "task", "syscall", "stack"):
        needs = getattr(layout, name).itemsize
        if needs != size:
            raise TraceError(
                f"bpf/{HEADER}: {name}_record takes {needs} bytes, RECORD_SIZE is {size}"
            )
    return layout


def _named(prefix: str, members: type[IntEnum] | type[IntFlag]) -> dict[str, int]:
    return {f"{prefix}_{member.name}": member.value for member in members}


def load_layout(bpf_dir: Path) -> Layout:
    """`parse_layout` of the header in `bpf_dir`."""
    return parse_layout((bpf_dir / HEADER).read_text(encoding="utf-8"))
