"""Thread counts and process facts from /proc, on this process and its own children."""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import witnesses
from tracer.common.errors import Exit
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import read_maps

PR_SET_NAME = 15
FIELDS = " ".join(str(number) for number in range(4, 53))


@pytest.fixture
def gone() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.fixture
def child() -> Iterator[int]:
    """A child that stands still: stopped, until the test is over."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("name", ["python", "a) R 1 2 (b", ")", "a\nb", ") Z 0 0"])
def test_counts_survive_any_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text = f"77 ({name}) S {FIELDS}\n".encode()
    for module in (stat, witnesses):
        monkeypatch.setattr(module, "read_bytes", lambda pid, file, tid=None: text)
    assert stat.fault_count(77, 77) == 10 + 12
    assert witnesses.process_fault_count(77) == 10 + 12
    assert stat.state(77) == "S"
    assert stat.parent(77) == 4
    assert stat.start_time(77) == 22


def test_name_that_looks_like_fields() -> None:
    seen: list[tuple[str, str, int]] = []

    def work() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b") Z (\n\xff", 0, 0, 0)
        tid = threading.get_native_id()
        seen.append(
            (stat.comm(os.getpid(), tid), stat.state(os.getpid(), tid), stat.parent(os.getpid()))
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(") Z (\n\udcff", "R", os.getppid())]


def test_fault_count_is_the_kernels_own() -> None:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    before = usage.ru_minflt + usage.ru_majflt
    counted = stat.fault_count(os.getpid(), threading.get_native_id())
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    assert before <= counted <= usage.ru_minflt + usage.ru_majflt
    assert witnesses.process_fault_count(os.getpid()) >= counted


def test_threads() -> None:
    ready, leave = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        tids.append(threading.get_native_id())
        ready.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        assert {os.getpid(), tids[0]} <= set(stat.threads(os.getpid()))
        assert stat.thread_group(tids[0]) == os.getpid()
        assert stat.living_thread(os.getpid()) == os.getpid()
        while not (pointer := stat.stack_pointer(os.getpid(), tids[0])):
            time.sleep(0.001)  # it is on its way into wait()
        (own,) = (each for each in read_maps(os.getpid()) if each.start <= pointer < each.end)
        assert (own.perms, own.path) == ("rw-p", "")
    finally:
        leave.set()
        thread.join()


def family() -> tuple[int, int, int]:
    """A child and a grandchild that live until the returned descriptor is closed."""
    notify_read, notify_write = os.pipe()
    hold_read, hold_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold_write)
        grandchild = os.fork()
        if grandchild == 0:
            os.read(hold_read, 1)
            os._exit(0)
        os.write(notify_write, str(grandchild).encode())
        os.waitpid(grandchild, 0)
        os._exit(0)
    os.close(notify_write)
    os.close(hold_read)
    grandchild = int(os.read(notify_read, 20))
    os.close(notify_read)
    return child, grandchild, hold_write


@pytest.mark.parametrize("children_file", [True, False])
def test_children_are_found_recursively(
    monkeypatch: pytest.MonkeyPatch, children_file: bool
) -> None:
    child, grandchild, hold = family()
    try:
        if not children_file:
            monkeypatch.setattr(os.path, "exists", lambda path: "children" not in path)
        found = stat.children(os.getpid())
        assert [pid for pid in found if pid in (child, grandchild)] == [child, grandchild]
        assert stat.children(grandchild) == []
    finally:
        os.close(hold)
        os.waitpid(child, 0)


def test_kernel_threads() -> None:
    assert not stat.is_kernel_thread(os.getpid())
    if Path("/proc/2/comm").exists() and stat.comm(2) == "kthreadd":
        assert stat.is_kernel_thread(2)


def test_zombie(child: int) -> None:
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    try:
        assert stat.exists(zombie)
        assert stat.state(zombie) == "Z"
        with pytest.raises(ProcessGone):
            stat.living_thread(zombie)
    finally:
        os.waitpid(zombie, 0)
    assert not stat.exists(zombie)
    assert stat.living_thread(child) == child


@pytest.mark.parametrize(
    "ask",
    [
        lambda pid: stat.fault_count(pid, pid),
        witnesses.process_fault_count,
        stat.threads,
        stat.children,
        stat.comm,
        stat.state,
        stat.start_time,
        stat.is_kernel_thread,
        stat.thread_group,
        stat.living_thread,
        witnesses.rss,
        witnesses.smaps_rss,
    ],
)
def test_gone_is_one_error(gone: int, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(ProcessGone) as caught:
        ask(gone)
    assert caught.value.code is Exit.NO_TARGET
    assert caught.value.pid == gone


def test_start_time_distinguishes_processes(child: int) -> None:
    assert stat.start_time(child) >= stat.start_time(os.getpid()) > 0


def test_recorded_smaps() -> None:
    text = (
        b"559da7e61000-559da7e63000 r--p 00000000 fe:00 260131    /tmp/Rss: 9 kB\n"
        b"Size:                  8 kB\nRss:                   4 kB\nPss:                   8 kB\n"
        b"VmFlags: rd mr mw me \n"
        b"7f9000000000-7f9000400000 rwxp 00000000 00:00 0 \n"
        b"Size:               4096 kB\nRss:                   0 kB\nVmFlags: rd wr\n"
    )
    assert witnesses.parse_smaps_rss(text) == {0x559DA7E61000: 4096, 0x7F9000000000: 0}


def test_rss_adds_up(child: int) -> None:
    regions = witnesses.smaps_rss(child)
    assert sum(regions.values()) == witnesses.rss(child) > 0
