"""ptdump on running processes: against pagemap, on the demos, and without rights. Needs root."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests import witnesses
from tracer.common.errors import Exit
from tracer.common.pages import NO_FRAME, PAGE_SIZE
from tracer.procfs import pagemap, stat
from tracer.procfs.entries import USER_LIMIT
from tracer.procfs.maps import read_maps
from tracer.procfs.pagemap import PageMap
from tracer.ptdump.dump import HEADER

PTDUMP = [sys.executable, "-m", "tracer.ptdump.cli"]


class Demo:
    """A demo waiting for its next Enter."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tracer.demos.{name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.line() == f"pid: {self.pid}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().removesuffix("\n")

    def enter(self, lines: int) -> list[str]:
        """Press Enter; the words that follow."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.line() == ""
        return [self.line() for _ in range(lines)]

    def asleep(self) -> None:
        """Wait until it waits: from then on its memory stands still."""
        while stat.state(self.pid) != "S":
            time.sleep(0.001)

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture
def multimap() -> Iterator[Demo]:
    demo = Demo("multimap")
    yield demo
    demo.end()


def ptdump(*arguments: str) -> str:
    done = subprocess.run([*PTDUMP, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def expected_lines(pid: int, each_page: bool) -> list[tuple[str, ...]]:
    """Columns, from numpy's reading of the same pagemap."""
    lines = []
    with PageMap(pid) as own:
        for mapping in read_maps(pid):
            entries = own.read(
                mapping.start, mapping.end if each_page else mapping.start + PAGE_SIZE
            )
            size = PAGE_SIZE if each_page else mapping.end - mapping.start
            states = zip(
                pagemap.frames(entries).tolist(),
                pagemap.present(entries).tolist(),
                pagemap.swapped(entries).tolist(),
                strict=True,
            )
            for index, (frame, present, swapped) in enumerate(states):
                lines.append(
                    (
                        f"{mapping.start + index * PAGE_SIZE:#x}",
                        "0x0" if frame == NO_FRAME else f"{frame:#x}",
                        str(size),
                        mapping.perms,
                        str(present).lower(),
                        str(swapped).lower(),
                        *([mapping.path] if mapping.path else []),
                    )
                )
    return lines


@pytest.mark.parametrize("each_page", [False, True])
def test_dump_equals_pagemap(multimap: Demo, each_page: bool) -> None:
    multimap.enter(5)
    multimap.asleep()
    expected = expected_lines(multimap.pid, each_page)
    shown = ptdump(*["-g"] * each_page, str(multimap.pid)).splitlines()
    assert shown[0] == HEADER
    assert [tuple(line.split(maxsplit=6)) for line in shown[1:]] == expected
    assert any("vsyscall" in line for line in shown) == any(
        mapping.start >= USER_LIMIT for mapping in read_maps(multimap.pid)
    )


def test_dump_of_many_pages_equals_the_plain_one(
    multimap: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tracer.ptdump import cli as module

    multimap.asleep()
    outputs = []
    for limit in (0, 1 << 62):
        monkeypatch.setattr(module, "_BULK_PAGES", limit)
        assert module.main(["-g", str(multimap.pid)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) > 1000


def rwx_lines(demo: Demo) -> dict[str, list[str]]:
    """The seed's own pipeline: address -> the other columns."""
    shown = subprocess.run(
        f"{' '.join(PTDUMP)} -g {demo.pid} | awk '/virt|rwx/{{print}}'",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert shown[0] == HEADER
    return {line.split()[0]: line.split()[1:] for line in shown[1:]}


def test_multimap_as_in_the_seed(multimap: Demo) -> None:
    assert rwx_lines(multimap) == {}
    pages = [line.removeprefix("Allocated page at ") for line in multimap.enter(5)]
    absent = ["0x0", "4096", "rwxp", "false", "false"]
    assert rwx_lines(multimap) == dict.fromkeys(pages, absent)
    frames: dict[str, str] = {}
    for number, page in enumerate(pages):
        assert multimap.enter(1) == [f"data written to {page}"]
        shown = rwx_lines(multimap)
        for address in pages[number + 1 :]:
            assert shown[address] == absent
        frames[page] = shown[page][0]
        for address, frame in frames.items():
            assert shown[address] == [frame, "4096", "rwxp", "true", "false"]
    assert len(set(frames.values())) == 5
    assert "0x0" not in frames.values()


def test_singlemap_as_in_the_seed() -> None:
    demo = Demo("singlemap")
    (said,) = demo.enter(1)
    page = said.removeprefix("Allocated new map: ")
    before = ptdump("--region", page, str(demo.pid)).splitlines()[1].split()
    assert before == [page, "0x0", "4096", "rwxp", "false", "false"]
    assert demo.enter(1) == [f"Writing data to {page}"]
    after = ptdump("--region", page, str(demo.pid)).splitlines()[1].split()
    with PageMap(demo.pid) as own:
        (frame,) = pagemap.frames(own.read(int(page, 16), int(page, 16) + PAGE_SIZE)).tolist()
    assert after == [page, f"{frame:#x}", "4096", "rwxp", "true", "false"]
    demo.end()


def test_each_step_of_multimap_costs_its_one_page() -> None:
    """Whatever else the interpreter faults on the way, the demo's own pages come one by one."""
    demo = Demo("multimap", "--pages", "7")
    pages = [int(line.rpartition(" ")[2], 16) for line in demo.enter(7)]
    for number in range(1, 8):
        before = witnesses.process_fault_count(demo.pid)
        demo.enter(1)
        with PageMap(demo.pid) as own:
            there = [bool(pagemap.present(own.read(at, at + PAGE_SIZE))[0]) for at in pages]
        assert there == [True] * number + [False] * (7 - number)
        assert witnesses.process_fault_count(demo.pid) > before
    demo.end()


def test_sparse_terabyte_takes_no_time() -> None:
    code = (
        "import mmap, sys; m = mmap.mmap(-1, 1 << 40, flags=0x4022); m[1 << 39] = 1;"
        "print('ready', flush=True); sys.stdin.readline()"
    )
    target = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert target.stdout is not None
    target.stdout.readline()
    began = time.monotonic()
    shown = ptdump(str(target.pid))
    took = time.monotonic() - began
    target.communicate()
    sizes = [int(line.split()[2]) for line in shown.splitlines()[1:]]
    assert max(sizes) >= 1 << 40
    assert took < 2


def without(capabilities: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is part of util-linux"
    return subprocess.run(
        [setpriv, f"--bounding-set={capabilities}", *PTDUMP, *arguments],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("each_page", [False, True])
def test_hidden_frames(multimap: Demo, each_page: bool) -> None:
    multimap.enter(5)
    multimap.enter(1)
    done = without("-sys_admin", *["-g"] * each_page, str(multimap.pid))
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "sudo" in done.stderr
    columns = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {line[1] for line in columns if line[4] == "true"} == {"hidden"}
    assert {line[1] for line in columns if line[4] == "false"} == {"0x0"}


def test_no_right_to_read(multimap: Demo) -> None:
    # CAP_PERFMON, too, lets one read in newer kernels (mm_access).
    done = without("-sys_admin,-sys_ptrace,-perfmon", str(multimap.pid))
    assert (done.returncode, done.stdout) == (Exit.NO_RIGHTS, "")
    assert re.fullmatch(
        rf"ptdump: no permission to look into process {multimap.pid}; .*CAP_SYS_PTRACE.*\n",
        done.stderr,
    )


def test_kernel_thread() -> None:
    done = subprocess.run([*PTDUMP, "2"], capture_output=True, text=True)
    if not stat.is_kernel_thread(2):
        pytest.skip("pid 2 is not kthreadd here (a pid namespace)")
    assert done.returncode == Exit.NO_TARGET
    assert done.stderr == "ptdump: 2 is a kernel thread (kthreadd): it has no memory of its own\n"


def test_leader_that_has_ended_but_left_threads() -> None:
    code = (
        "import ctypes, sys, threading\n"
        "def stay():\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    import os; os._exit(0)\n"
        "threading.Thread(target=stay).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit(2): of this thread alone
    )
    target = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert target.stdout is not None
    target.stdout.readline()
    while stat.state(target.pid, target.pid) != "Z":
        time.sleep(0.001)
    assert stat.living_thread(target.pid) != target.pid
    assert "[stack]" in ptdump(str(target.pid))
    target.communicate("\n")


def test_watch_marks_the_page_as_it_comes(multimap: Demo) -> None:
    pages = [line.rpartition(" ")[2] for line in multimap.enter(5)]
    watch = subprocess.Popen(
        [*PTDUMP, "-g", "--region", pages[0], "--watch", "0.02", str(multimap.pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None

    def until(wanted: str) -> str:
        assert watch.stdout is not None
        return next(line for line in watch.stdout if line.startswith(pages[0]) and wanted in line)

    assert until(" false ").split()[1] == "0x0"
    multimap.enter(1)
    came = until(" true ")
    assert came.split()[1] == "+"
    assert np.uint64(int(came.split()[2], 16)) % PAGE_SIZE == 0
    watch.send_signal(2)
    _, errors = watch.communicate()
    assert (watch.returncode, errors) == (0, "")


def test_start_is_quick() -> None:
    """Processor time of the whole command, the best of five; the machine may be busy."""
    times = []
    for _ in range(5):
        before = os.times()
        ptdump(str(os.getpid()))
        after = os.times()
        times.append(
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )
    assert min(times) < 0.2
