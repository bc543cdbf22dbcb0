"""Parsing of /proc/PID/maps and mountinfo: recorded text, hostile names, round trips."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import (
    Mapping,
    Mount,
    kernel_device,
    parse_maps,
    parse_mountinfo,
    parse_mounts,
    read_maps,
)

RECORDED = (
    b"00400000-00401000 r--p 00000000 fe:00 260386                             /usr/bin/head\n"
    b"55f750403000-55f750404000 rw-p 0000b000 fe:00 260386                     /usr/bin/head\n"
    b"55f777148000-55f777169000 rw-p 00000000 00:00 0                          [heap]\n"
    b"7f90298a2000-7f90298a3000 rwxp 00000000 00:00 0 \n"
    b"7f90298a3000-7f90298a4000 rw-s 00000000 00:01 2048                       /memfd:a (deleted)\n"
    b"7f90298a4000-7f90298a5000 rw-p 00000000 00:00 0                          [anon:my heap]\n"
    b"7f90298f9000-7f90298fa000 r--p 00000000 1f1f:1a2b3 329642                /tmp/two\\012lines\n"
    b"7ffde15f8000-7ffde15fa000 r-xp 00000000 00:00 0                          [vdso]\n"
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
)


def test_recorded_maps() -> None:
    mappings = parse_maps(RECORDED)
    assert len(mappings) == 9
    assert mappings[1] == Mapping(
        0x55F750403000, 0x55F750404000, "rw-p", 0xB000, 0xFE << 20, 260386, "/usr/bin/head"
    )
    assert mappings[3] == Mapping(0x7F90298A2000, 0x7F90298A3000, "rwxp", 0, 0, 0, "")
    assert mappings[4].device == 1
    assert mappings[6].device == 0x1F1F << 20 | 0x1A2B3
    assert mappings[8].start == 0xFFFFFFFFFF600000


def test_names() -> None:
    assert [mapping.name for mapping in parse_maps(RECORDED)] == [
        "/usr/bin/head",
        "/usr/bin/head",
        "[heap]",
        "[anon]",
        "/memfd:a (deleted)",
        "[anon:my heap]",
        "/tmp/two\\012lines",
        "[vdso]",
        "[vsyscall]",
    ]


def test_path_keeps_every_byte_but_newline() -> None:
    path = bytes(range(1, 10)) + bytes(range(11, 256)) + b" trailing  "
    line = b"1000-2000 r--p 00000000 fe:00 7                          /" + path + b"\n"
    (mapping,) = parse_maps(line)
    assert mapping.path.encode("utf-8", "surrogateescape") == b"/" + path


MAPPINGS = st.builds(
    Mapping,
    start=st.integers(0, (1 << 64) - 2),
    end=st.integers(1, (1 << 64) - 1),
    perms=st.sampled_from(["r--p", "rw-p", "rwxs", "---p"]),
    offset=st.integers(0, (1 << 64) - 1),
    device=st.integers(0, (1 << 32) - 1),
    inode=st.integers(0, (1 << 64) - 1),
    file=st.just(0),
    path=st.one_of(
        st.just(""),
        st.binary().map(
            lambda raw: "/" + raw.replace(b"\n", b"").decode("utf8", "surrogateescape")
        ),
    ),
)


def as_the_kernel_writes(mapping: Mapping) -> bytes:
    head = (
        f"{mapping.start:08x}-{mapping.end:08x} {mapping.perms} {mapping.offset:08x} "
        f"{mapping.device >> 20:02x}:{mapping.device & 0xFFFFF:02x} {mapping.inode} "
    ).encode()
    path = mapping.path.encode("utf-8", "surrogateescape")
    return (head.ljust(73) + path if path else head) + b"\n"


@given(st.lists(MAPPINGS, max_size=5))
def test_round_trip(mappings: list[Mapping]) -> None:
    assert parse_maps(b"".join(map(as_the_kernel_writes, mappings))) == mappings


def test_empty() -> None:
    assert parse_maps(b"") == []


def test_mountinfo() -> None:
    text = (
        b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
        b"25 24 0:23 / /dev/shm rw,nosuid shared:3 master:1 - tmpfs tmp\\040fs rw,size=1k\n"
        b"26 24 0:24 /a /odd\\040name rw - fuse.sshfs - rw\n"
    )
    assert parse_mountinfo(text) == {
        kernel_device(254, 0): "ext4",
        kernel_device(0, 23): "tmpfs",
        kernel_device(0, 24): "fuse.sshfs",
    }
    odd = parse_mounts(text)[2]
    assert odd == Mount(26, kernel_device(0, 24), "/odd name", "fuse.sshfs")
    assert odd.leads_to("/odd name/x")
    assert not odd.leads_to("/odd names")
    assert parse_mounts(text)[0].leads_to("/anything")


def test_own_maps_hold_this_code() -> None:
    mappings = read_maps(os.getpid())
    address = id(mappings)
    assert any(mapping.start <= address < mapping.end for mapping in mappings)
    assert mappings == sorted(mappings, key=lambda mapping: mapping.start)


def test_zombie_is_gone() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(ProcessGone):
            read_maps(child)
    finally:
        os.waitpid(child, 0)
    with pytest.raises(ProcessGone):
        read_maps(child)
