"""A pin keeps memory readable past the end, and nothing waits for it. Needs root."""

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import witnesses
from tests.live.workload import Range, Workload
from tracer.procfs import stat
from tracer.target import mm_pin
from tracer.target.mm_pin import MmPin, PinHelper, PinUnavailable

PRESENT = 1 << 63
PFN = (1 << 55) - 1
ROOT = Path(__file__).parents[2]
SECONDS = 30.0


def entries(fd: int, where: Range) -> list[int]:
    """pagemap entries of the range; [] once the memory is gone."""
    data = os.pread(fd, where.pages * 8, where.start // 4096 * 8)
    return list(struct.unpack(f"{len(data) // 8}Q", data))


def ended(pid: int) -> None:
    """Return once process `pid`, ours or not, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], SECONDS)[0], f"process {pid} goes on"
    os.close(fd)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Neither descriptors nor children."""
    before = len(os.listdir("/proc/self/fd")), stat.children(os.getpid())
    yield
    assert (len(os.listdir("/proc/self/fd")), stat.children(os.getpid())) == before


def test_exactly_the_pages_touched_are_there_after_the_end() -> None:
    with Workload("anon-write", 101) as work, MmPin(work.pid) as pin:
        where = work.range()
        around = Range(where.start - 4096, where.pages + 2)
        assert not any(entry & PRESENT for entry in entries(pin.pagemap_fd, where))
        work.go()
        frames = [entry & PFN for entry in entries(pin.pagemap_fd, where)]
        maps = pin.read_maps()
        assert work.finish() == 0  # it ends, and is reaped: nothing waits for us
        after = entries(pin.pagemap_fd, around)
        assert [bool(e & PRESENT) for e in after] == [False, *[True] * 101, False]
        assert [e & PFN for e in after[1:-1]] == frames
        assert len(set(frames) - {0}) == 101
        assert f"{where.start:x}-{where.end:x} rw-p".encode() in maps
        assert pin.pinned


def test_maps_can_be_read_until_the_process_is_reaped() -> None:
    with Workload("anon-write", 7) as work, MmPin(work.pid) as pin:
        before = pin.read_maps()
        os.kill(work.pid, signal.SIGKILL)
        os.waitid(os.P_PID, work.pid, os.WEXITED | os.WNOWAIT)
        assert pin.read_maps() == before
        work.finish()
        assert pin.read_maps() == b""


def test_release_lets_the_memory_go() -> None:
    with Workload("anon-write", 7) as work:
        where = work.range()
        pin = MmPin(work.pid)
        work.go()
        work.finish()
        fd = os.dup(pin.pagemap_fd)
        assert len(entries(fd, where)) == 7
        pin.close()
        pin.close()
        assert not pin.pinned
        assert entries(fd, where) == []
        os.close(fd)


def test_release_while_the_target_lives_leaves_it_alone() -> None:
    with Workload("anon-write", 7) as work:
        MmPin(work.pid).close()
        assert work.go().counts[0].faults == 7
        assert work.finish() == 0


def test_nothing_is_attached_and_nothing_faults_meanwhile() -> None:
    with Workload("anon-write", 101) as work:
        before = witnesses.process_fault_count(work.pid)
        with MmPin(work.pid):
            status = Path(f"/proc/{work.pid}/status").read_text()
            assert "TracerPid:\t0\n" in status
            assert witnesses.process_fault_count(work.pid) == before
            assert work.go().counts[0].faults == 101


def test_several_pins_on_one_process() -> None:
    with Workload("anon-write", 7) as work, MmPin(work.pid) as one:
        with MmPin(work.pid):
            work.go()
        work.finish()
        assert len(entries(one.pagemap_fd, work.range())) == 7


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_pin_ends_with_us(ending: signal.Signals) -> None:
    """However the tracer ends, the helper ends, and the target's memory with it."""
    program = (
        "import signal, sys\n"
        "from tracer.target.mm_pin import MmPin\n"
        "pin = MmPin(int(sys.argv[1]))\n"
        "print(pin._helper.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with Workload("anon-write", 7) as work:
        fd = os.open(f"/proc/{work.pid}/pagemap", os.O_RDONLY)
        tracer = subprocess.Popen(
            [sys.executable, "-c", program, str(work.pid)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert tracer.stdout is not None
        helper = int(tracer.stdout.readline())
        work.go()
        work.finish()
        assert len(entries(fd, work.range())) == 7
        tracer.send_signal(ending)
        tracer.communicate()
        ended(helper)
        assert entries(fd, work.range()) == []
        os.close(fd)


def test_a_stop_of_ours_stops_us_and_the_helper_sleeps_on() -> None:
    """Ctrl-Z: a thread of ours sleeping in the fault would spin, and keep us from stopping."""
    program = (
        "import os, signal, sys\n"
        "from tracer.target.mm_pin import MmPin\n"
        "pin = MmPin(int(sys.argv[1]))\n"
        "print(pin._helper.pid, flush=True)\n"
        "os.kill(0, signal.SIGSTOP)\n"
        "print(pin.pinned, flush=True)\n"
    )
    with Workload("anon-write", 7) as work:
        tracer = subprocess.Popen(
            [sys.executable, "-c", program, str(work.pid)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            process_group=0,
        )
        assert tracer.stdout is not None
        helper = int(tracer.stdout.readline())
        result = os.waitid(os.P_PID, tracer.pid, os.WSTOPPED)
        assert result is not None
        assert result.si_code == os.CLD_STOPPED
        assert stat.state(helper) == "S"
        tracer.send_signal(signal.SIGCONT)
        assert tracer.communicate()[0] == b"True\n"
        ended(helper)


def test_tend_renews_a_disturbed_pin() -> None:
    with Workload("anon-write", 7) as work, MmPin(work.pid) as pin:
        pin.tend()
        first = pin._helper.pid
        os.kill(first, signal.SIGSTOP)  # as the freezer would
        deadline = time.monotonic() + SECONDS
        while pin._helper.pid == first:
            assert time.monotonic() < deadline
            select.select([pin._helper._uffd], [], [], SECONDS)
            pin.tend()
        assert pin.pinned
        work.go()
        work.finish()
        assert len(entries(pin.pagemap_fd, work.range())) == 7


def test_a_prepared_helper_holds_at_once() -> None:
    with Workload("anon-write", 7) as work:
        helper = PinHelper()
        started = time.perf_counter()
        with MmPin(work.pid, helper) as pin:
            assert time.perf_counter() - started < 1  # about 0.3 ms when nothing else runs
            assert pin.pinned


def test_unavailable_for_what_has_no_memory() -> None:
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        for pid in (zombie.pid, 2, 4194304):  # kthreadd; none ever
            with pytest.raises(PinUnavailable):
                MmPin(pid)


def test_unavailable_without_userfaultfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm_pin, "_NR_USERFAULTFD", -1)  # no such system call: ENOSYS
    with pytest.raises(PinUnavailable, match="userfaultfd is not available"):
        PinHelper()
