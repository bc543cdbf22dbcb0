"""Code in files made to stop, break or mislead whoever reads them.

On the running machine only (conftest.py): no kernel changes what is in a file.
"""

import csv
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import cli

PAGES = 101
CODE_AT = 0x1000
# mov byte [rdi], 1; ret
CODE = b"\xc6\x07\x01\xc3"
PROGRAM = """
import ctypes, os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
at = libc.mmap(None, 0x2000, 5, 2, file, 0)
touch = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(at + 0x1000)
fresh = libc.mmap(None, int(sys.argv[2]) << 12, 3, 0x22, -1, 0)
for page in range(int(sys.argv[2])):
    touch(fresh + (page << 12))
"""


def header(phnum: int = 1, shoff: int = 0, shnum: int = 0) -> bytes:
    ident = b"\x7fELF\2\1\1" + bytes(9)
    return ident + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, shoff, 0, 64, 56, phnum, 64, shnum, 0
    )


def program(kind: int = 1, offset: int = 0, vaddr: int = 0, filesz: int = 0x2000) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 5, offset, vaddr, 0, filesz, filesz, 0x1000)


def section(kind: int, offset: int, size: int, link: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, offset, size, link, 0, 1, 24)


def to_the_end_of_addresses(file: Path) -> None:
    """A segment up to 2^64."""
    file.write_bytes(header() + program(vaddr=(1 << 64) - 0x2000))


def notes_that_claim_one_hole(file: Path) -> None:
    """65,534 of them, each of 64 MiB that take no room on the disk."""
    at, count = 1 << 28, 65_534
    with file.open("wb") as out:
        out.write(header(shoff=at, shnum=count) + program())
        out.seek(at)
        out.write(section(7, 1 << 20, 1 << 26) * count)


def symbols_of_one_hole(file: Path) -> None:
    """As many as a table may have, all of them nothing, and names without end."""
    at = 1 << 30
    with file.open("wb") as out:
        out.write(header(shoff=at, shnum=3) + program())
        out.seek(at)
        out.write(section(0, 0, 0) + section(2, 1 << 20, (1 << 26) // 24 * 24, 2))
        out.write(section(3, 1 << 20, 1 << 26))


def frames_that_are_none(file: Path) -> None:
    """An .eh_frame_hdr that is the file's own beginning, of every size."""
    file.write_bytes(header(2) + program() + program(0x6474E550, 0, 0, (1 << 64) - 1))


HOSTILE = [
    to_the_end_of_addresses, notes_that_claim_one_hole, symbols_of_one_hole, frames_that_are_none,
]  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=[each.__name__ for each in HOSTILE])
def test_a_file_that_is_not_what_it_claims(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Every fault of its code is traced, with its offset in the file if it has no name."""
    file, faults = tmp_path / "evil.so", tmp_path / "f.csv"
    make(file)
    with file.open("r+b") as out:
        out.truncate(max(file.stat().st_size, 2 * CODE_AT))
        out.seek(CODE_AT)
        out.write(CODE)
    done = cli.run(
        "--symbols", "--stacks", "--csv", faults, "--quiet",
        "--", sys.executable, "-c", PROGRAM, file, PAGES,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "Traceback" not in done.out + done.err
    with faults.open(newline="") as rows:
        names = [row["symbol"] for row in csv.DictReader(rows) if row["access"] == "write"]
    assert sum(name.startswith(f"evil.so+{CODE_AT:#x}") for name in names) == PAGES
    meta = json.loads(Path(f"{faults}.meta.json").read_text())
    assert meta["books"]["lost"] == 0
    with Path(f"{faults}.stacks.csv").open(newline="") as rows:
        assert [row for row in csv.DictReader(rows) if row["module"] == str(file)]
