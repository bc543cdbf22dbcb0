"""Mappings as the running kernel reports them. Needs root."""

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.kernel import sideband
from tracer.kernel.sideband import ExecEvent, MmapEvent, Sideband

# 1,000 anonymous and 1,000 file mappings in turn at one address, which it prints first.
WORKLOAD = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
fd = os.open(sys.argv[1], os.O_RDONLY)
room = libc.mmap(None, 3 << 20, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
address = room + (1 << 20)
libc.munmap(address, 1 << 20)
print(address, flush=True)
sys.stdin.readline()
for _ in range(1000):
    for args in ((3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0), (1, mmap.MAP_SHARED, fd, 4096)):
        assert libc.mmap(address, 8192, args[0], args[1] | 0x100000, *args[2:]) == address
        libc.munmap(address, 8192)
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def band() -> Iterator[Sideband]:
    with Sideband() as opened:
        yield opened


def mappings(band: Sideband, pid: int) -> list[MmapEvent]:
    return [event for event in band.poll({pid}) if isinstance(event, MmapEvent)]


def test_all_short_lived_mappings_are_seen_in_order(band: Sideband, tmp_path: Path) -> None:
    path = str(tmp_path / "mapped\nfile")
    Path(path).write_bytes(bytes(65536))
    with subprocess.Popen(
        [sys.executable, "-c", WORKLOAD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        address = int(child.stdout.readline())
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"done\n"
        events = [e for e in mappings(band, child.pid) if e.start == address]
        child.stdin.close()
    assert (band.lost, band.corrupt) == (0, 0)
    assert len(events) == 2000
    status = os.stat(path)
    kernel_device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    for anonymous, mapped in zip(events[::2], events[1::2], strict=True):
        assert (anonymous.pid, anonymous.end, anonymous.perms) == (
            child.pid,
            address + 8192,
            "rw-p",
        )
        assert (anonymous.path, anonymous.inode, anonymous.pgoff) == ("", 0, 0)
        assert (mapped.path, mapped.inode, mapped.pgoff) == (
            path.replace("\n", "\\012"),
            status.st_ino,
            4096,
        )
        assert (mapped.perms, mapped.device) == ("r--s", kernel_device)
    times = [event.time_ns for event in events]
    assert times == sorted(times)


def test_times_are_monotonic_clock_and_polls_do_not_overlap(band: Sideband) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with mmap.mmap(-1, 7 * mmap.PAGESIZE):
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        mine = [e for e in mappings(band, os.getpid()) if before <= e.time_ns <= after]
    assert any(e.end - e.start >= 7 * mmap.PAGESIZE and e.perms == "rw-s" for e in mine)
    assert all(e.time_ns > after for e in band.poll({os.getpid()}))


def test_exec_reports_the_new_program(band: Sideband) -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    events = band.poll({child.pid})
    execs = [at for at, event in enumerate(events) if isinstance(event, ExecEvent)]
    assert len(execs) == 1
    program = events[execs[0] + 1 :]
    names = {event.path for event in program if isinstance(event, MmapEvent)}
    assert {"[stack]", "[vdso]", os.path.realpath("/bin/true")} <= names


def test_a_new_childs_events_wait_until_it_is_known(band: Sideband) -> None:
    settled = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    assert all(event.pid == os.getpid() for event in band.poll({os.getpid()}, settled))
    assert band.poll({os.getpid()}, settled) == []
    later = band.poll({child.pid}, settled)
    assert any(isinstance(event, ExecEvent) for event in later)
    assert {event.pid for event in later} == {child.pid}
    assert band.poll({child.pid}) == []


def test_events_of_others_are_dropped_once_settled(band: Sideband) -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    band.poll({os.getpid()})
    assert band.poll({child.pid}) == []


def test_what_does_not_fit_is_counted() -> None:
    with Sideband(data_pages=4) as small:
        for _ in range(1000):
            mmap.mmap(-1, mmap.PAGESIZE).close()
        seen = len(small.poll({os.getpid()}))
        assert 0 < seen < 1000
        mmap.mmap(-1, mmap.PAGESIZE).close()  # older kernels report it with the next record
        small.poll({os.getpid()})
        assert seen + small.lost >= 1000


def test_a_standing_event_is_replaced(band: Sideband) -> None:
    assert band.refresh() is False
    libc = ctypes.CDLL(None)
    disable = 0x2401  # PERF_EVENT_IOC_DISABLE: what a CPU going offline amounts to
    stopped = next(iter(band._buffers.values())).fd
    assert libc.ioctl(stopped, disable, 0) == 0
    with mmap.mmap(-1, mmap.PAGESIZE):
        pass
    assert band.refresh() is True
    assert band.refresh() is False
    band.poll()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    os.sched_setaffinity(0, {0})
    with mmap.mmap(-1, mmap.PAGESIZE):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        assert any(e.time_ns >= before for e in band.poll({os.getpid()}))


def test_refusal_is_a_clear_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cpu: int, watermark: int) -> tuple[int, bool]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sideband, "_open", refuse)
    with pytest.raises(TraceError, match="run as root"):
        Sideband()
