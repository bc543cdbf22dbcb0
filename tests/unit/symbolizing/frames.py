"""Call frame information made by hand, and ELF files with it."""

import struct

HEADER, FRAMES, CODE = 0x2000, 0x2100, 0x1000  # addresses; an image has them 0x1000 lower
SHIFT = 0x1000
SECTION = 0x4000  # the address of .eh_frame in a file of `listed_file`, and its offset
DYNAMIC = 0x800  # the offset of the dynamic section in a file of `with_dynamic`
INIT, FINI, ENDBR64 = 12, 13, b"\xf3\x0f\x1e\xfa"
_EHDR, _PHDR = 64, 56  # bytes

# As gcc makes them: CFA is rsp + 8, the return address lies below it.
CIE = struct.pack("<I", 0) + b"\x01zR\0" + b"\x01\x78\x10" + b"\x01\x1b" + b"\x0c\x07\x08\x90\x01"
USUAL = (
    b"\x41\x0e\x10\x86\x02"  # push %rbp: CFA is rsp + 16, rbp lies at CFA - 16
    b"\x43\x0d\x06"  # mov %rsp, %rbp
    b"\x0a\x5c\x0c\x07\x08\xc6"  # remember; an early leave: rbp is the caller's again
    b"\x41\x0b"  # after it: as remembered
)


def entry(body: bytes) -> bytes:
    """With its length, as long as a multiple of 4."""
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def function(at: int, cie: int, start: int, size: int, instructions: bytes = b"") -> bytes:
    """The entry of a function, which is at `at`; its CIE is as gcc's."""
    where = struct.pack("<IiI", at + 4 - cie, start - (at + 8), size)
    return entry(where + b"\0" + instructions)


def image(*functions: tuple[int, int, bytes]) -> bytes:
    """A file from address 0x1000 on: the table, then the entries of (start, size, instructions)."""
    frames = entry(CIE)
    table = []
    for start, size, instructions in functions:
        at = FRAMES + len(frames)
        table.append((start, at))
        frames += function(at, FRAMES, start, size, instructions)
    header = b"\x01\x1b\x03\x3b" + struct.pack("<iI", FRAMES - HEADER - 4, len(table))
    for start, at in sorted(table):
        header += struct.pack("<ii", start - HEADER, at - HEADER)
    data = bytes(HEADER - SHIFT) + header
    return data.ljust(FRAMES - SHIFT, b"\0") + frames


def with_frames() -> bytes:
    """An ELF file with call frame information: two functions at 0x1000 and 0x1080."""
    frames = image((CODE, 0x40, USUAL), (CODE + 0x80, 0x10, b""))
    programs = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, 0x1000, 0, 0x2000, 0x2000, 0x1000)
    # `image` has the addresses from 0x1000 on; its header is at address 0x2000.
    programs += struct.pack("<IIQQQQQQ", 0x6474E550, 4, 0x2000, 0x2000, 0, 0x100, 0x100, 4)
    return _ehdr(2, 0, 0) + programs.ljust(0x1000 - _EHDR, b"\0") + frames


def listed_file(frames: bytes, size: int | None = None, code: int = 0x3000) -> bytes:
    """An ELF file whose .eh_frame has no table; `size` is what it claims to have.

    Its code is at address and offset 0x1000, `code` bytes.
    """
    names = b"\0.eh_frame\0.shstrtab\0"
    sections = bytes(64)
    sections += struct.pack(
        *("<IIQQQQIIQQ", 1, 1, 2, SECTION, SECTION),
        *(len(frames) if size is None else size, 0, 0, 8, 0),
    )
    at = 0x200 + 3 * 64
    sections += struct.pack("<IIQQQQIIQQ", 11, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    programs = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, 0x1000, 0, code, code, 0x1000)
    head = (_ehdr(1, 3, 0x200) + programs).ljust(0x200, b"\0") + sections + names
    return head.ljust(SECTION, b"\0") + frames


def with_listed_frames() -> bytes:
    """As `with_frames`, without a table."""
    frames = entry(CIE)
    for start, size, instructions in ((CODE + 0x80, 0x10, b""), (CODE, 0x40, USUAL)):
        frames += function(SECTION + len(frames), SECTION, start, size, instructions)
    return listed_file(frames + bytes(4))


def with_dynamic(file: bytes, *entries: tuple[int, int], size: int | None = None) -> bytearray:
    """That file with a dynamic section of (tag, value); `size` is what it claims to have."""
    data = bytearray(file)
    programs = data[56]  # e_phnum
    data[56] += 1
    content = b"".join(struct.pack("<QQ", *each) for each in entries)
    size = len(content) if size is None else size
    struct.pack_into(
        *("<IIQQQQQQ", data, _EHDR + programs * _PHDR, 2, 4),
        *(DYNAMIC, DYNAMIC, 0, size, size, 8),
    )
    data[DYNAMIC : DYNAMIC + len(content)] = content
    return data


def with_entry_points() -> bytes:
    """As `with_listed_frames`, with DT_INIT and DT_FINI that no entry covers."""
    data = with_dynamic(with_listed_frames(), (1, 1), (INIT, CODE + 0x60), (FINI, CODE + 0x440))
    data[CODE + 0x440 : CODE + 0x444] = ENDBR64
    return bytes(data)


def _ehdr(programs: int, sections: int, sections_at: int) -> bytes:
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    return header + struct.pack(
        *("<HHIQQQIHHHHHH", 3, 62, 1, 0, _EHDR, sections_at, 0, 64),
        *(_PHDR, programs, 64, sections, max(sections - 1, 0)),
    )
