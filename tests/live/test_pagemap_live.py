"""pagemap, kpageflags and the fault counts against the kernel's other books. Needs root."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tests import witnesses
from tracer.common.pages import PAGE_SIZE
from tracer.procfs import kpageflags, pagemap, stat
from tracer.procfs.entries import USER_LIMIT
from tracer.procfs.maps import mount_filesystems, read_maps
from tracer.procfs.pagemap import PageMap

# 101 pages written, 53 read only (the zero page), 47 never touched, 31 of shared memory.
WORKLOAD = """
import ctypes, mmap, os, signal
def area(pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
written, read, idle = area(101), area(53), area(47)
shared = area(31, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for memory, pages in ((written[0], 101), (shared[0], 31)):
    for page in range(pages):
        memory[page * mmap.PAGESIZE] = 1
for page in range(53):
    read[0][page * mmap.PAGESIZE]
print(written[1], read[1], idle[1], shared[1], flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


class Still:
    """A stopped process and where its four areas are."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKLOAD], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.written, self.read, self.idle, self.shared = map(
            int, self.process.stdout.readline().split()
        )
        self.pid = self.process.pid
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def entries(self, start: int, pages: int) -> pagemap.Entries:
        with PageMap(self.pid) as own:
            return own.read(start, start + pages * PAGE_SIZE)


@pytest.fixture(scope="module")
def still() -> Iterator[Still]:
    workload = Still()
    yield workload
    workload.process.send_signal(signal.SIGKILL)
    workload.process.wait()
    assert workload.process.stdout is not None
    workload.process.stdout.close()


def test_root_sees_frames() -> None:
    assert pagemap.frames_visible()


def test_states_of_known_pages(still: Still) -> None:
    written = still.entries(still.written, 101)
    assert pagemap.present(written).all()
    assert pagemap.exclusive(written).all()
    assert not pagemap.file_or_shared(written).any()
    assert len(np.unique(pagemap.frames(written))) == 101

    zero = still.entries(still.read, 53)
    assert pagemap.present(zero).all()
    assert not pagemap.exclusive(zero).any()
    assert len(np.unique(pagemap.frames(zero))) == 1

    assert not pagemap.held(still.entries(still.idle, 47)).any()

    shared = still.entries(still.shared, 31)
    assert pagemap.present(shared).all()
    assert pagemap.file_or_shared(shared).all()


def page_flags(entries: pagemap.Entries) -> pagemap.Entries:
    return kpageflags.flags(pagemap.frames(entries) // np.uint64(PAGE_SIZE))


def has(flags: pagemap.Entries, bit: int) -> bool:
    return bool(((flags & np.uint64(bit)) != 0).all())


def test_flags_of_known_frames(still: Still) -> None:
    assert has(page_flags(still.entries(still.written, 101)), kpageflags.ANON)
    assert has(page_flags(still.entries(still.read, 53)), kpageflags.ZERO_PAGE)
    shared = page_flags(still.entries(still.shared, 31))
    assert not (shared & np.uint64(kpageflags.ANON)).any()
    pfns = pagemap.frames(still.entries(still.written, 101)) // np.uint64(PAGE_SIZE)
    assert kpageflags.counts(pfns).tolist() == [1] * 101


def test_frames_beyond_memory_have_no_page() -> None:
    assert kpageflags.flags(np.array([1 << 50], dtype=np.uint64)).tolist() == [kpageflags.NOPAGE]


def test_present_pages_equal_rss_region_by_region(still: Still) -> None:
    """smaps leaves out the zero page and pages without struct page; the rest agrees exactly."""
    resident = witnesses.smaps_rss(still.pid)
    compared = 0
    with PageMap(still.pid) as own:
        for mapping in read_maps(still.pid):
            if mapping.start >= USER_LIMIT or mapping.path.startswith("[v"):
                continue
            entries = own.read(mapping.start, mapping.end)
            flags = page_flags(entries[pagemap.present(entries)])
            counted = np.count_nonzero((flags & np.uint64(kpageflags.ZERO_PAGE)) == 0)
            assert counted * PAGE_SIZE == resident[mapping.start], mapping
            compared += 1
    assert compared > 20


def test_read_present_equals_plain_reads(still: Still) -> None:
    mappings = read_maps(still.pid)
    total = 0
    with PageMap(still.pid) as own:
        for mapping, address, entries in witnesses.read_present(own, mappings):
            assert (own.read(address, address + len(entries) * PAGE_SIZE) == entries).all()
            assert mapping.start <= address < mapping.end
            total += int(np.count_nonzero(pagemap.held(entries)))
        plain = sum(
            int(np.count_nonzero(pagemap.held(own.read(mapping.start, mapping.end))))
            for mapping in mappings
            if mapping.start < USER_LIMIT
        )
    assert total == plain


def test_shared_memory_is_recognised_by_its_path_or_its_file_system(still: Still) -> None:
    mappings = {mapping.start: mapping for mapping in read_maps(still.pid)}
    filesystems = mount_filesystems(still.pid)
    assert mappings[still.shared].path == "/dev/zero (deleted)"
    code = next(m for m in mappings.values() if "x" in m.perms and m.path.startswith("/"))
    assert filesystems[code.device] == _file_system_of(code.path)


def _file_system_of(path: str) -> str:
    return subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_known_number_of_faults_is_counted() -> None:
    """A child that stops, writes 211 pages and stops: 211 more on its count."""
    area = mmap.mmap(-1, 211 * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None)
    child = os.fork()
    if child == 0:
        # Twice, the first time for what the way there itself faults in.
        for stride in (0, PAGE_SIZE):
            for page in range(211):
                libc.memset(ctypes.c_void_p(address + page * stride), 1, 1)
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    before = stat.fault_count(child, child), witnesses.process_fault_count(child)
    os.kill(child, signal.SIGCONT)
    os.waitpid(child, os.WUNTRACED)
    after = stat.fault_count(child, child), witnesses.process_fault_count(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    # The first page was written before.
    assert (after[0] - before[0], after[1] - before[1]) == (210, 210)
