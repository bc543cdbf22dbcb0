"""CPythons made by hand: their ELF files, objects of theirs, and what the kernel sends of them."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from tests.unit.callstacks.test_symbols import DYNSYM, OBJECT, Symbol, make_elf
from tests.unit.faults_data import LAYOUT
from tracer.symbolizing.runtime import NONE
from tracer.wire.records import RecordType
from tracer.wire.shared import PYTHON_ENTRY, PYTHON_TEXT, PYTHON_WHOLE

ADDRESS, VERSION_AT = 0x401000, 0x401800  # of _PyRuntime and Py_Version in `python_elf`
SYMBOLS: list[Symbol] = [
    ("another", OBJECT, 0x401900, 8),
    ("_PyRuntime", OBJECT, ADDRESS, 0x400),
    ("Py_Version", OBJECT, VERSION_AT, 8),
]
V311, V312, V313, V314, V315 = 0x030B, 0x030C, 0x030D, 0x030E, 0x030F

# What Debian's 3.13.5 and 3.14.10 have in their _Py_DebugOffsets, by position there.
DEBUG_OFFSETS: dict[int, dict[int, int]] = {
    V313: {
        **{40: 632, 64: 7264, 72: 7344, 160: 0, 168: 8, 176: 16, 184: 72, 200: 160},
        **{232: 8, 240: 0, 248: 56, 264: 70, 280: 112, 288: 120, 296: 128, 304: 136, 312: 68},
        344: 200,
    },
    V314: {
        **{40: 808, 64: 7272, 72: 7344, 184: 0, 192: 8, 200: 16, 208: 72, 224: 160},
        **{256: 8, 264: 0, 272: 56, 288: 74, 320: 112, 328: 120, 336: 128, 344: 136, 352: 68},
        384: 208,
    },
}
# And so what is known of them: as runtime.MEMBERS.
MEMBERS_OF = {
    V313: (
        *(632, 7264, 7344, 0, 8, 16, 160, 72, NONE, NONE, 0, 8, 56, 70, NONE),
        *(112, 128, 136, 68, 92, 200),
    ),
    V314: (
        *(808, 7272, 7344, 0, 8, 16, 160, 72, NONE, NONE, 0, 8, 56, 74, NONE),
        *(112, 128, 136, 68, 92, 208),
    ),
}


def python_elf(
    version: int,
    offsets: Mapping[int, int] | None = None,
    *,
    cookie: bytes = b"xdebugpy",
    debugged: int | None = None,
    free_threaded: int = 0,
    symbols: Sequence[Symbol] = SYMBOLS,
) -> bytes:
    """An interpreter's file; `debugged`: the version that its _Py_DebugOffsets claim."""
    content = bytearray(0x1000)
    named = (version if debugged is None else debugged) << 16
    struct.pack_into("<8sQQ", content, 0, cookie, named, free_threaded)
    for at, value in (offsets or DEBUG_OFFSETS.get(version, {})).items():
        struct.pack_into("<Q", content, at, value)
    struct.pack_into("<Q", content, VERSION_AT - ADDRESS, version << 16 | 0x5F0)
    return make_elf((DYNSYM, list(symbols))).ljust(0x1000, b"\0") + bytes(content)


def str_object(text: str, version: int = V311, *, compact: bool = True) -> bytes:
    """A str as Include/cpython/unicodeobject.h lays it out."""
    widest = max(map(ord, text), default=0)
    kind, encoding = 4, "utf-32-le"
    if widest < 1 << 16:
        kind, encoding = (1, "latin-1") if widest < 1 << 8 else (2, "utf-16-le")
    ascii_ = widest < 1 << 7
    head = (40 if ascii_ else 56) if version >= V312 else (48 if ascii_ else 72)
    state = kind << 2 | compact << 5 | ascii_ << 6 | (version == V311) << 7 | 1
    made = struct.pack("<QQQqI", 3, 0x95E4A0, len(text), -1, state).ljust(head, b"\0")
    return made + text.encode(encoding, "surrogatepass") + bytes(kind)


def code_record(
    number: int,
    function: str = "Class.method",
    file: str = "/app/module.py",
    first_line: int = 1,
    table: bytes = b"",
    *,
    lines: int | None = None,
    offset: int = 0,
    version: int = V311,
) -> bytes:
    """A record of the ring of copies, with a location table or that part of it."""
    size = len(table)
    lines = size if lines is None else lines
    head = struct.pack("<QQIIIIII40x", 0, number, version, first_line, lines, offset, size, 0)
    texts = (str_object(each, version)[:PYTHON_TEXT] for each in (file, function))
    return head + b"".join(each.ljust(PYTHON_TEXT, b"\0") for each in texts) + table


def python_records(
    number: int,
    frames: Sequence[tuple[int, int, bool]],
    loops: Sequence[tuple[int, int]] = (),
    end: int = PYTHON_WHOLE,
) -> np.ndarray:
    """PYTHON records: of each frame its code's number, the instruction, and whether C called it.

    `loops`: an address in the frame of each call of the evaluation loop, and which frame that is.
    """
    words: list[int] = []
    for code, position, entry in frames:
        words += [code, position & 0xFFFF_FFFF | (PYTHON_ENTRY if entry else 0)]
    words += [address | at + 1 << 56 for address, at in loops]
    room = LAYOUT.stack["ips"].shape[0]
    made = np.zeros(max(1, -(-len(words) // room)), LAYOUT.stack)
    made["type"], made["stack"] = RecordType.PYTHON, number
    made["user"], made["kernel"], made["caller"] = len(frames), len(loops), end
    for at in range(len(made)):
        part = words[at * room : (at + 1) * room]
        made["first"][at] = at
        made["ips"][at, : len(part)] = part
    return made
