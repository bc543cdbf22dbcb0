"""Bytes that make no sense: parsed or refused, never a crash, an endless loop or a heap of memory.

Most come from the kernel, which is trusted; the ELF files and all names are the traced program's.
"""

import os
import resource
import struct
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import lookup
from faults_data import LAYOUT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opened import opener
from test_btf import ENUM, INT, STRUCT, TYPEDEF, UNION, BtfWriter
from test_recorder import BASE, CHILD, MM, PID, Kernel, recording
from test_symbols import FULL, SYMTAB, make_elf

from tracer import elf
from tracer.errors import TraceError
from tracer.kernel.btf import Btf
from tracer.kernel.sideband import parse
from tracer.procfs import entries, stat
from tracer.procfs.kallsyms import parse_kallsyms
from tracer.procfs.maps import parse_maps, parse_mountinfo
from tracer.records import RecordType
from tracer.symbols import Symbols

MUCH_KB = 256 << 10
NUMBERS = st.sampled_from([0, 1, 8, 24, 64, 1 << 12, (1 << 31) - 1, (1 << 32) - 1, 1 << 63])


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """All of them together take little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MUCH_KB


def patched(whole: bytes, changes: list[tuple[int, bytes]], length: int) -> bytes:
    """`whole` with bytes written over, and cut."""
    data = bytearray(whole)
    for at, patch in changes:
        at %= max(1, len(data))
        data[at : at + len(patch)] = patch
    return bytes(data[: length % (len(data) + 1)] if length % 3 == 0 else data)


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=9)
        | NUMBERS.map(lambda n: (n & 0xFFFFFFFF).to_bytes(4, "little"))
        | NUMBERS.map(lambda n: n.to_bytes(8, "little")),
    ),
    max_size=6,
)


# -- text of /proc ---------------------------------------------------------------------------


LINE = b"7f90298a2000-7f90298a3000 rw-p 00001000 fe:00 77      /usr/bin/head\n"


@given(st.binary(max_size=200), CHANGES, st.integers(0, 1000))
def test_maps(rubbish: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
    """Whole lines among rubbish are read all the same."""
    found = parse_maps(rubbish.replace(b"\n", b"?") + b"\n" + LINE + patched(LINE, changes, length))
    assert any(mapping.path == "/usr/bin/head" and mapping.inode == 77 for mapping in found)
    parse_mountinfo(rubbish)
    stat.parse_smaps_rss(rubbish)


@given(st.binary(max_size=200))
def test_kallsyms(rubbish: bytes) -> None:
    addresses, names = parse_kallsyms(rubbish + b"\nffffffff81000000 T _text\n")
    assert addresses == sorted(addresses)
    assert len(addresses) == len(names)
    assert "_text" in names


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(comm=st.binary(max_size=15), rubbish=st.binary(max_size=60))
def test_stat(comm: bytes, rubbish: bytes) -> None:
    """Any name; any rubbish is a TraceError at most."""
    fields = b" ".join(b"%d" % number for number in range(4, 53))
    good = b"77 (" + comm + b") S " + fields + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stat, "read_bytes", lambda *_: good)
        assert (stat.state(77), stat.fault_count(77, 77), stat.parent(77)) == ("S", 22, 4)
        patch.setattr(stat, "read_bytes", lambda *_: rubbish)
        for ask in (stat.parent, stat.process_fault_count, stat.is_kernel_thread):
            with suppress(TraceError):
                ask(77)


# -- pagemap ---------------------------------------------------------------------------------

START, END = 0x1000, 0x100_0000
SCANS = st.lists(
    st.tuples(
        st.integers(-1, 5),  # ranges the call says it found
        st.lists(st.integers(0, END // 0x1000 + 2), max_size=10),  # their ends, in pages
    ),
    min_size=1,
    max_size=5,
)


@given(SCANS, st.booleans())
def test_pagemap_scan(answers: list[tuple[int, list[int]]], ordered: bool) -> None:
    """Whatever the ioctl says: ranges that ascend within what was asked for, or a TraceError."""
    left = iter(answers)

    def ioctl(_: int, __: int, argument: bytearray) -> int:
        count, ends = next(left, (0, []))
        address = struct.unpack_from("=12Q", argument)[5]
        words = array("Q", bytes(24 * 5))
        for index, page in enumerate(sorted(ends) if ordered else ends):
            words[index // 2 * 3 + index % 2] = page * 0x1000
        target = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint64 * 15).from_address(address))
        target[:] = words
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries.fcntl, "ioctl", ioctl)
        patch.setattr(entries, "_REGIONS_A_CALL", 5)
        try:
            ranges = list(entries._scan(-1, START, END))
        except TraceError:
            return
    ends = [end for pair in ranges for end in pair]
    assert ends == sorted(ends)
    assert not ends or (ends[0] >= START and ends[-1] <= END)


# -- BTF -------------------------------------------------------------------------------------


def some_btf(path: Path) -> bytes:
    w = BtfWriter()
    u64 = w.add(INT, "u64", 8, struct.pack("<I", 64))
    inner = w.composite(STRUCT, "", 16, ("deep", u64, 0), ("deeper", u64, 64))
    union = w.composite(UNION, "", 16, ("", inner, 0), ("flags", u64, 0))
    alias = w.add(TYPEDEF, "alias", w.add(TYPEDEF, "other", inner))
    w.composite(STRUCT, "outer", 48, ("first", u64, 0), ("", union, 64), ("named", alias, 192))
    w.add(ENUM, "small", 4, struct.pack("<IiIi", w.name("A"), 7, w.name("TOP"), -1), 2)
    return w.write(path).read_bytes()


def ask_btf(path: Path) -> None:
    with Btf(path) as types:
        types.offsets(["outer.first", "outer.deeper", "outer.named.deep", "outer.no"])
        types.struct_size("outer")
        types.enum_value("small", "TOP")


@given(CHANGES, st.integers(0, 1000))
def test_btf(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "btf"
    path.write_bytes(patched(some_btf(path), changes, length))
    with suppress(TraceError):
        ask_btf(path)


def test_types_that_refer_to_each_other_have_an_end(tmp_path: Path) -> None:
    for make in (
        lambda w: w.add(TYPEDEF, "round", 3) and w.add(TYPEDEF, "round2", 2),
        lambda w: w.composite(STRUCT, "", 8, ("", 2, 0)),
    ):
        w = BtfWriter()
        w.composite(STRUCT, "outer", 8, ("", 2, 0), ("named", 2, 0))
        make(w)
        try:
            with Btf(w.write(tmp_path / "btf")) as types:
                for path in ("outer.x", "outer.named.x"):
                    with suppress(TraceError):
                        types.offsets([path])
        except TraceError:
            continue  # libbpf saw it


# -- records ---------------------------------------------------------------------------------

FIELDS = np.array([0, 1, 2, PID, CHILD, MM, BASE, (1 << 47) - 1, (1 << 64) - 1], np.uint64)
SHAPES: dict[int, np.dtype[np.void]] = {
    RecordType.FAULT: LAYOUT.fault,
    RecordType.WINDOW: LAYOUT.window,
    RecordType.SYSCALL: LAYOUT.syscall,
}


def a_record(random: np.random.Generator) -> bytes:
    """A type, known or not, and fields that are likely, odd, or any bytes."""
    odd = random.random() < 0.05
    kind = int(random.choice([0, 99, 255] if odd else [*RecordType]))
    data = bytearray(random.bytes(LAYOUT.size) if random.random() < 0.3 else LAYOUT.size)
    record = np.frombuffer(data, SHAPES.get(kind, LAYOUT.task))
    for name in random.choice(record.dtype.names or (), 8):
        record[name] = random.choice(FIELDS, record[name].shape).astype(record[name].dtype)
    record["type"] = kind
    if not odd:
        record["time_ns"] >>= np.uint64(2)
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, (1 << 32) - 1), st.integers(1, 12))
def test_the_recorder(seed: int, count: int) -> None:
    """Records that no program of ours would send: read to the end, or refused."""
    kernel, random = Kernel(), np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for recorder in recording(kernel, patch):
            for _ in range(count):
                kernel.put_bytes(a_record(random))
            with suppress(TraceError):
                for _ in range(3):
                    for rows in recorder.cycle():
                        assert len(rows.records()) == len(rows)
                assert recorder.ring.pending() == 0
    kernel.ring.close()


@given(st.binary(max_size=2000), st.lists(st.integers(0, 255), max_size=20))
def test_the_sideband(rubbish: bytes, sizes: list[int]) -> None:
    """Records whose headers are likely; what is not read is accounted for."""
    data = b""
    for at, size in enumerate(sizes):
        body = rubbish[at : at + size]
        data += struct.pack("<IHH", (10, 3, 2, 99)[size % 4], 1 << 13, 8 + len(body)) + body
    events, lost, left_over = parse(data)
    assert len(events) <= len(sizes)
    assert lost >= 0
    assert 0 <= left_over <= len(data)


# -- the target's own files ------------------------------------------------------------------

WHOLE = make_elf((SYMTAB, FULL))


@given(CHANGES, st.integers(0, 1000))
def test_elf(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "elf"
    path.write_bytes(patched(WHOLE, changes, length))
    found = elf.functions(opener(path))
    for offset in range(0x1000, 0x1500, 16) if found else ():
        assert found is not None
        found.at(offset)


def test_a_file_made_to_take_memory(tmp_path: Path) -> None:
    """Huge sparse tables, one endless name, many names of one place."""
    path = tmp_path / "x"
    content = make_elf((SYMTAB, FULL))
    headers = struct.unpack_from("<Q", content, 40)[0]
    for section, size in ((1, 1 << 40), (2, 1 << 40), (1, 1 << 27), (2, 1 << 27)):
        data = bytearray(content)
        struct.pack_into("<Q", data, headers + section * 64 + 32, size)
        path.write_bytes(data)
        os.truncate(path, 1 << 41)
        assert elf.functions(opener(path)) is None


def test_long_names_and_many_names_of_one_function(tmp_path: Path) -> None:
    path = tmp_path / "x"
    many = [(f"n{n}", 0x12, 0x401100, 0x40) for n in range(5_000)]
    path.write_bytes(make_elf((SYMTAB, [("x" * 100_000, 0x12, 0x401200, 0x10), *many])))
    found = elf.functions(opener(path))
    assert found
    named = found.at(0x1208)
    assert named
    assert len(named[0]) <= 4096
    assert found.at(0x1100)


def test_devices_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """To open one may do something: rewind a tape, start a watchdog."""
    opened = []
    real = os.open

    def spy(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if not flags & os.O_PATH:
            opened.append(path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    assert elf.functions(opener("/dev/null")) is None
    assert elf.functions(opener("/dev/tty")) is None
    assert opened == []


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.symbols._MOST_KNOWN", 100)
    symbols = Symbols([], lookup(), lambda: ([], []))
    for ip in range(1000):
        symbols.name((1 << 63) + ip, 0)
    assert len(symbols._known) <= 100
