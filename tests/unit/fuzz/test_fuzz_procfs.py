"""Text of /proc, damaged: the names in it are the traced programs' own choice."""

import ctypes
import fcntl
import struct
from array import array
from contextlib import suppress
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import witnesses
from tests.unit.fuzz.mutation import EDGES, edited, every
from tracer.callstacks.frames import Frame
from tracer.common.errors import TraceError
from tracer.common.text import decode, printable
from tracer.procfs import entries, stat
from tracer.procfs.kallsyms import parse_kallsyms
from tracer.procfs.maps import parse_maps, parse_mountinfo, parse_mounts

LINE = b"7f90298a2000-7f90298a3000 rw-p 00001000 fe:00 77      /usr/bin/head\n"
MAPS = LINE + (
    b"7f90298a3000-7f90298a4000 ---p 00000000 00:00 0\n"
    b"7f90298a4000-7f90298a5000 rw-s 00000000 00:01 1029      /memfd:a b\\012c (deleted)\n"
    b"7f90298a5000-7f90298a6000 rw-p 00000000 00:00 0          [anon:7f00-7f01 rw-p Rss: 4 kB]\n"
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n"
)
SMAPS = (
    b"7f90298a2000-7f90298a3000 rw-p 00001000 fe:00 77      /usr/bin/head\n"
    b"Size:                  4 kB\nRss:                   4 kB\nVmFlags: rd wr mr mw me ac\n"
)
MOUNTS = (
    b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    b"29 22 0:25 / /mnt/a\\040b\\134 rw,nosuid - fuse.sshfs me@there:/\\040- rw,user_id=0\n"
)
WORDS = [
    *(b"%x" % edge for edge in EDGES),
    *(b"", b"-", b":", b"0x10", b"1_0", b"+1", b"9" * 5000, b"f" * 5000, b"\0", b"\xff", b"\r"),
    *(b"\x0b", b"\x1c", b"\xc2\x85", b"\\777", b"\\1", b"-1-2", b"(deleted)", b"Rss:", b"kB"),
]


@given(st.binary(max_size=200))
def test_a_whole_line_among_rubbish(rubbish: bytes) -> None:
    found = parse_maps(rubbish.replace(b"\n", b"?") + b"\n" + LINE + rubbish)
    assert any(mapping.path == "/usr/bin/head" and mapping.inode == 77 for mapping in found)


def test_mappings() -> None:
    def check(random: Random) -> None:
        for mapping in parse_maps(edited(random, MAPS, WORDS)):
            numbers = (mapping.start, mapping.end, mapping.offset, mapping.device, mapping.inode)
            assert all(isinstance(number, int) for number in numbers)
            assert "\n" not in mapping.path
            assert printable(mapping.name).isprintable()

    every("maps", 1000, check)


def test_mounts() -> None:
    def check(random: Random) -> None:
        text = edited(random, MOUNTS, WORDS)
        for mount in parse_mounts(text):
            mount.leads_to("/mnt/a b/c")
        parse_mountinfo(text)

    every("mountinfo", 500, check)


def test_resident_bytes() -> None:
    def check(random: Random) -> None:
        for start, size in witnesses.parse_smaps_rss(edited(random, SMAPS, WORDS)).items():
            assert start >= 0
            assert size >= 0

    every("smaps", 500, check)


@given(st.binary(max_size=200))
def test_kallsyms(rubbish: bytes) -> None:
    addresses, names = parse_kallsyms(rubbish + b"\nffffffff81000000 T _text\n")
    assert addresses == sorted(addresses)
    assert len(addresses) == len(names)
    assert "_text" in names


ASKED = (
    *(
        stat.parent,
        witnesses.process_fault_count,
        stat.is_kernel_thread,
        stat.state,
        stat.start_time,
    ),
    *(stat.thread_group, witnesses.rss, stat.comm),
    *(lambda pid: stat.life(pid, pid), lambda pid: stat.stack_pointer(pid, pid)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(comm=st.binary(max_size=15), rubbish=st.binary(max_size=60))
def test_any_name(comm: bytes, rubbish: bytes) -> None:
    """Any rubbish is a TraceError at most."""
    fields = b" ".join(b"%d" % number for number in range(4, 53))
    good = b"77 (" + comm + b") S " + fields + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stat, "read_bytes", lambda *_: good)
        assert (stat.state(77), stat.fault_count(77, 77), stat.parent(77)) == ("S", 22, 4)
        patch.setattr(stat, "read_bytes", lambda *_: rubbish)
        for ask in ASKED:
            with suppress(TraceError):
                ask(77)


def test_stat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that are no numbers, and files of another kind."""
    files = [
        b"77 (a) b) S " + b" ".join(b"%d" % number for number in range(4, 53)) + b"\n",
        b"0 0x7f 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f90\n",
        b"Name:\tx\nTgid:\t77\nPid:\t77\nUid:\t0\t0\t0\t0\nNSpid:\t77\t1\n",
        b"55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:                   4 kB\n",
    ]

    def check(random: Random) -> None:
        text = edited(random, random.choice(files), WORDS)
        monkeypatch.setattr(stat, "read_bytes", lambda *_: text)
        for ask in ASKED:
            with suppress(TraceError):
                ask(77)

    every("stat", 500, check)


def test_function_names() -> None:
    """Made readable without any library: what is no name stays as it is."""
    pieces = ["_Z", "_ZN", "K", "3app", "4fill", "E", "i", "0", "9999", "1\u0661", "\udcff", "²"]

    def check(random: Random) -> None:
        name = "".join(random.choices(pieces, k=random.randrange(8)))
        assert Frame(False, name, 0, "/usr/bin/head", 0).text()
        assert printable(decode(name.encode("utf-8", "surrogateescape"))).isprintable()

    every("names", 500, check)


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
        target = np.ctypeslib.as_array((ctypes.c_uint64 * 15).from_address(address))
        target[:] = words
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "ioctl", ioctl)
        patch.setattr(entries, "_REGIONS_A_CALL", 5)
        try:
            ranges = list(entries._scan(-1, START, END))
        except TraceError:
            return
    ends = [end for pair in ranges for end in pair]
    assert ends == sorted(ends)
    assert not ends or (ends[0] >= START and ends[-1] <= END)
