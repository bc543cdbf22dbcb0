"""Mappings followed by sideband and system calls, against the kernel's own /proc/PID/maps."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tracer.kernel.sideband import Sideband
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping, read_maps
from tracer.spaces.changes import Brk, Move, Unmap
from tracer.spaces.spaces import Spaces

P = 4096
ARENA = 64  # pages

# Carries out lines of "call args…" in an arena of its own; answers with result and time.
WORKLOAD = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None)
call = libc.syscall
call.restype = ctypes.c_long
call.argtypes = [ctypes.c_long] + [ctypes.c_ulong] * 6
fd = os.open(sys.argv[1], os.O_RDWR)
size = int(sys.argv[2]) + (1 << 20)
arena = call(9, 0, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1 & (1 << 64) - 1, 0)
call(11, arena, size, 0, 0, 0, 0)
print(arena, fd, flush=True)
for line in sys.stdin:
    number, *args = map(int, line.split())
    result = call(number, *args, *[0] * (6 - len(args)))
    print(result, time.clock_gettime_ns(time.CLOCK_MONOTONIC), flush=True)
"""


class Child:
    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(ARENA * P))
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKLOAD, str(path), str(ARENA * P)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self.process.pid
        self.arena, self.fd = self._answer()

    def call(self, number: int, *args: int) -> tuple[int, int]:
        """(result, a time after it)"""
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, (number, *args))) + "\n")
        return self._answer()

    def _answer(self) -> tuple[int, int]:
        assert self.process.stdout
        first, second = self.process.stdout.readline().split()
        return int(first), int(second)

    def maps(self) -> list[Mapping]:
        """Those in the arena, by the kernel."""
        end = self.arena + ARENA * P
        return [m for m in read_maps(self.pid) if m.start < end and m.end > self.arena]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    started = Child(tmp_path / "file")
    yield started
    with started.process:
        started.process.kill()


def described(mapping: Mapping) -> Region:
    return Region(mapping.start, mapping.end, mapping.perms, mapping.offset, mapping.name)


def plain(region: Region) -> Region:
    """Without its device: of a file on an overlay perf and maps may name two."""
    return region._replace(device=0)


def expect(names: Names, spaces: Spaces, child: Child, time_ns: int) -> None:
    """Every mapping the kernel has in the arena is known, exactly."""
    mappings = child.maps()
    wanted, addresses = [], []
    for mapping in mappings:
        region = described(mapping)
        for address in (mapping.start, mapping.end - 1):
            wanted.append(region)
            addresses.append(address)
    times = np.full(len(addresses), time_ns, dtype=np.uint64)
    ids, _ = spaces.lookup(1, np.array(addresses, dtype=np.uint64), times)
    assert [plain(names.regions[i]) for i in ids] == wanted


@pytest.mark.parametrize("seed", range(5))
def test_the_mappings_followed_are_the_kernels(child: Child, seed: int) -> None:
    chance = random.Random(seed)
    names = Names()
    spaces = Spaces(names)
    with Sideband() as band:
        spaces.attach(time.clock_gettime_ns(time.CLOCK_MONOTONIC), child.pid, 1, child.maps())
        for _ in range(150):
            start = chance.randrange(ARENA)
            pages = chance.randint(1, min(12, ARENA - start))
            address, size = child.arena + start * P, pages * P
            kind = chance.choice(["anon", "file", "shared", "mprotect", "munmap"])
            if kind == "anon":
                result, now = child.call(9, address, size, 3, 0x32, (1 << 64) - 1, 0)
            elif kind in ("file", "shared"):
                flags = 0x11 if kind == "shared" else 0x12
                offset = chance.choice([start, chance.randrange(ARENA)]) * P
                result, now = child.call(9, address, size, 1, flags, child.fd, offset)
            elif kind == "mprotect":
                result, now = child.call(10, address, size, chance.choice([0, 1, 3]))
            else:
                result, now = child.call(11, address, size)
                spaces[1].history.add(now, Unmap(address, address + size))
            assert result in (0, address) or kind == "mprotect"  # which may meet a hole
            spaces.feed(band.poll({child.pid}))
            expect(names, spaces, child, now)
        assert band.lost == 0


def test_mremap_moves_and_resizes(child: Child) -> None:
    names = Names()
    spaces = Spaces(names)
    with Sideband() as band:
        spaces.attach(0, child.pid, 1)
        child.call(9, child.arena, 8 * P, 3, 0x12, child.fd, 3 * P)
        moves = [  # old page, old size, new page, new size: in pages, each fixed
            (2, 3, 20, 3),
            (20, 3, 20, 9),
            (20, 9, 20, 2),
            (6, 2, 40, 5),
            (20, 2, 42, 2),
        ]
        for old, old_size, new, new_size in moves:
            source, target = child.arena + old * P, child.arena + new * P
            moving = (3, target) if old != new else (0, 0)  # MAYMOVE | FIXED
            result, now = child.call(25, source, old_size * P, new_size * P, *moving)
            assert result == target
            spaces.feed(band.poll({child.pid}))
            spaces[1].history.add(now, Move(source, old_size * P, target, new_size * P, keep=False))
            expect(names, spaces, child, now)


def test_exec_is_followed_from_an_empty_space(tmp_path: Path) -> None:
    names = Names()
    spaces = Spaces(names)
    with Sideband() as band:
        start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin
            assert child.stdout
            child.stdin.write(b"ready\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"ready\n"
            mappings = read_maps(child.pid)
            events = band.poll({child.pid})
            child.stdin.close()
    spaces.attach(start, child.pid, 1)
    spaces.feed(events)
    spaces.exec(events[-1].time_ns, child.pid, 2)
    for heap in (m for m in mappings if m.name == "[heap]"):
        for brk in (heap.start, heap.end):  # as the libc does; no probe here reports it
            spaces[2].history.add(events[-1].time_ns, Brk(brk))
    addresses = np.array([m.end - 1 for m in mappings], dtype=np.uint64)
    ids, _ = spaces.lookup(2, addresses, np.full(len(addresses), time.monotonic_ns()))
    found = [names.regions[i] for i in ids]
    for region, mapping in zip(found, mappings, strict=True):
        if mapping.name != "[vsyscall]":  # of no address space
            assert plain(region) == described(mapping)
