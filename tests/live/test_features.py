"""The fixtures that prepare the machine do what they say, and leave it as it was."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import features
from tests.live.features import KSM, THP, Group

HUGE = 2 << 20
THP_ENABLED = THP / "enabled"


def _swaps() -> set[str]:
    return {line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]}


def _private(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _resident(memory: mmap.mmap) -> int:
    """Pages present, without touching any (mincore(2))."""
    pages = len(memory) // 4096
    there = (ctypes.c_ubyte * pages)()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(memory)), there) == 0
    return sum(byte & 1 for byte in there)


@pytest.mark.parametrize("kind", ["zram", "file"])
def test_swap(swap: Callable[..., Path], kind: str) -> None:
    area = swap(16, kind)
    assert os.fspath(area) in _swaps()


def test_huge_pages_for_everybody(thp: Callable[[str], None]) -> None:
    """Folios of 2 MiB by the first touch, without madvise."""
    thp("always")
    with _private(4 * HUGE) as memory:
        memory[2 * HUGE] = 1  # whatever the alignment, 2 MiB around it lie inside
        assert _resident(memory) == 512


def test_modes_are_restored() -> None:
    before = THP_ENABLED.read_text()

    for mode in ("always", "never"):
        with features.thp(mode):
            assert f"[{mode}]" in THP_ENABLED.read_text()
    assert THP_ENABLED.read_text() == before


def test_folios_of_one_size(mthp: Callable[..., None], thp: Callable[[str], None]) -> None:
    thp("never")
    mthp(64)
    with _private(1 << 20) as memory:
        memory[1 << 19] = 1
        assert _resident(memory) == 16


def test_hugetlb(hugetlb: Callable[..., None]) -> None:
    hugetlb(2)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000  # MAP_HUGETLB
    with mmap.mmap(-1, 2 * HUGE, flags=flags) as memory:
        memory[0] = memory[HUGE] = 1


@pytest.mark.usefixtures("ksm")
def test_ksm() -> None:
    assert (KSM / "run").read_text() == "1\n"


def test_memory_group(memcg: Callable[..., Group]) -> None:
    """What a process in the group touches is charged to it."""
    group = memcg(64 << 20)
    script = (
        "import sys; sys.stdin.readline(); m = bytearray(8 << 20); print(1, flush=True);"
        "sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        group.add(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline()
        assert group.usage >= 8 << 20
        child.communicate("\n")


def test_two_nodes(numa: tuple[int, ...]) -> None:
    assert len(numa) >= 2
