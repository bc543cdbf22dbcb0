"""Raw records as the ring holds them, for the tests of what reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from tracer.wire.records import RecordType, load_layout

LAYOUT = load_layout(Path(__file__).parents[2] / "bpf")
PAGE = 4096

# Page-table entry bits (arch/x86/include/asm/pgtable_types.h).
PRESENT, WRITABLE, LEAF, PROTNONE = 0x001, 0x002, 0x080, 0x100
ALL = (1 << 64) - 1
FRAME_BITS = 0x000FFFFFFFFFF000


def pte(frame: int, bits: int = PRESENT) -> int:
    """A present entry for the frame at physical address `frame`."""
    return frame | bits


def inverted(frame: int, bits: int) -> int:
    """An entry without the present bit: its frame is stored inverted (pgtable-invert.h)."""
    return (~frame & FRAME_BITS) | bits


def swap_entry(kind: int, offset: int) -> int:
    """A swap entry: five bits of type, the offset inverted (pgtable_64.h, __swp_entry)."""
    return kind << 59 | ((~offset << 14) & ALL) >> 5


def faults(count: int = 1, /, **fields: Any) -> np.ndarray:
    """`count` fault records, all fields zero but for those given."""
    made = np.zeros(count, LAYOUT.fault)
    made["type"] = RecordType.FAULT
    for name, values in fields.items():
        made[name] = values
    return made


def windows(count: int = 1, /, **fields: Any) -> np.ndarray:
    """`count` window records."""
    made = np.zeros(count, LAYOUT.window)
    made["type"] = RecordType.WINDOW
    made["level"] = 1
    for name, values in fields.items():
        made[name] = values
    return made
