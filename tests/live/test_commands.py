"""Commands traced from their first instruction to their exit, and the demos themselves."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.background import Collect
from tests.live.tracing import Traced, check_books, trace_command
from tests.live.workload import command, parse
from tracer.common.errors import Exit
from tracer.common.pages import NO_FRAME
from tracer.common.resources import bpf_dir
from tracer.model.budgets import parse_budget
from tracer.model.rows import Cause, Confirmed, Kind
from tracer.model.sources import Loss
from tracer.outputs.figures import Figures
from tracer.outputs.verdict import verdict_of
from tracer.probes.choose import Attached, attach
from tracer.procfs.pagemap import PageMap, frames
from tracer.session.calls import Calls
from tracer.session.plan import Outputs, Plan
from tracer.session.session import Session
from tracer.spaces.syscalls import SystemCall
from tracer.target.command import Command

GUEST = bool(os.environ.get("PAGEFAULT_GUEST"))
N_HELD = 5003  # pages
MULTIMAP = [sys.executable, "-m", "tracer.demos.multimap"]


def run(
    attached: Attached, argv: list[str], output: Path | None = None, *, pin: bool = True
) -> Traced:
    """Trace a command to its end; what it printed is in `output`."""
    environment = dict(os.environ)
    saved = os.dup(1)
    with (
        Command(argv, environment, pin=pin)
        if output is None
        else _redirected(argv, output, saved, pin) as child
    ):
        traced = trace_command(attached, child)
    os.close(saved)
    if output:
        traced.report = parse(output.read_text().splitlines())
    return traced


def _redirected(argv: list[str], output: Path, saved: int, pin: bool) -> Command:
    """The command with its stdout in a file: it inherits ours."""
    sys.stdout.flush()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.close(file)
    try:
        return Command(argv, dict(os.environ), pin=pin)
    finally:
        os.dup2(saved, 1)


def test_from_the_first_instruction_to_the_exit(attached: Attached, tmp_path: Path) -> None:
    """Every page of a command that ends at once is confirmed by the snapshot at its exit."""
    traced = run(attached, command("anon-write", 211, directory=tmp_path), tmp_path / "out")
    assert traced.result.exit_status == 0
    blind = traced.books.missed if traced.probe == "perf" else 0
    check_books(traced, blind)
    range_ = traced.report.ranges["anon"]
    assert traced.kinds(range_) == {"anon": 211}
    rows = traced.within(range_)
    assert (rows["confirmed"] == Confirmed.BOTH).all()
    assert traced.rows["number"].tolist() == list(range(1, len(traced.rows) + 1))
    # The first fault is the program's own: the dynamic loader's first instruction.
    assert int(traced.rows["ip"][0]) & ~4095 == int(traced.rows["address"][0]) & ~4095
    assert "exec" in traced.books.gained_by  # what execve itself had put there


def test_exits_at_once(attached: Attached) -> None:
    traced = run(attached, ["/bin/true"])
    assert traced.result.exit_status == 0
    assert len(traced.rows) > 20
    check_books(traced, traced.books.missed)


def test_exit_status_is_the_commands(attached: Attached) -> None:
    assert run(attached, ["/bin/sh", "-c", "exit 7"]).result.exit_status == 7
    killed = run(attached, ["/bin/sh", "-c", "kill -TERM $$"]).result.exit_status
    assert killed == 128 + signal.SIGTERM


def test_exec_is_a_new_space(attached: Attached, tmp_path: Path) -> None:
    """Same pid, new memory: pages of the two do not mix, and both count."""
    argv = command("exec", 53, "anon-write", 31, directory=tmp_path)
    traced = run(attached, argv, tmp_path / "out")
    check_books(traced, traced.books.missed if traced.probe == "perf" else 0)
    assert set(traced.rows["pid"].tolist()) == {int(traced.report.pid)}
    assert sorted(set(traced.rows["space"].tolist())) == [1, 2]
    second = traced.within(traced.report.ranges["anon"])
    second = second[second["space"] == 2]
    assert len(second[second["kind"] == Kind.ANON]) == 31


_LASTS = f"import os, time; held = bytearray({N_HELD} << 12); time.sleep(1); os._exit(3)"
_THREAD = (
    "import os, threading, time; threading.Thread(target=os.execv, args=(sys.executable, ["
    "sys.executable, '-c', sys.argv[1]])).start(); time.sleep(60)"
)
CHAINS = {
    "env": ["env", sys.executable, "-c", _LASTS],
    "taskset": ["taskset", "-c", "0", sys.executable, "-c", _LASTS],
    "exec": ["sh", "-c", 'exec "$@"', "sh", sys.executable, "-c", _LASTS],
    "long": ["sh", "-c", 'exec env nice env "$@"', "sh", sys.executable, "-c", _LASTS],
    "thread": [sys.executable, "-c", f"import sys, {_THREAD[7:]}", _LASTS],
}


@pytest.mark.parametrize("chain", ["env", "thread"] if GUEST else CHAINS)
def test_what_is_held_is_the_last_program(attached: Attached, chain: str) -> None:
    """Programs that exec another within a moment: what was resident is the last one's."""
    traced = run(attached, CHAINS[chain])
    books = traced.books
    assert (traced.result.exit_status, traced.result.notes) == (3, [])
    check_books(traced, books.missed if traced.probe == "perf" else 0)
    held = traced.pages.last_frame != NO_FRAME
    assert books.resident == int(held.sum()) > N_HELD
    assert books.lost_by["munmap"] < N_HELD  # they are there until the end, and in a snapshot
    last = int(traced.pages.space.max())
    assert set(traced.pages.space[held].tolist()) == {last}
    assert int((traced.pages.confirmed[held] == Confirmed.BOTH).sum()) > N_HELD


def test_a_last_program_that_ends_at_once(attached: Attached) -> None:
    """No memory of an earlier one is taken for its; either it was held, or it is said."""
    traced = run(attached, ["env", "/bin/true"])
    books = traced.books
    check_books(traced, books.missed if traced.probe == "perf" else 0)
    if traced.result.notes:
        (note,) = traced.result.notes
        assert "for the last snapshot" in note or "before the last snapshot" in note
    first = traced.pages.space == 1
    assert set(traced.pages.last_loss[first & (traced.pages.losses > 0)].tolist()) <= {
        Loss.EXIT,
        Loss.MUNMAP,
        Loss.REPLACED,
    }


def test_children_are_followed(attached: Attached, tmp_path: Path) -> None:
    """A shell's children, across fork and exec; each thread's count is complete."""
    script = f"{' '.join(command('anon-write', 29))} >/dev/null; /bin/true; /bin/true"
    traced = run(attached, ["/bin/sh", "-c", script])
    check_books(traced, traced.books.missed if traced.probe == "perf" else 0)
    assert len(set(traced.rows["pid"].tolist())) == 4


def test_what_children_had_ends_with_them(attached: Attached) -> None:
    """Resident at the end is what the command had as it exited, not all that ever ran."""
    write = " ".join(command("anon-write", 503))
    traced = run(attached, ["/bin/sh", "-c", f"{write} >/dev/null; {write} >/dev/null; true"])
    books = traced.books
    check_books(traced, books.missed if traced.probe == "perf" else 0)
    assert books.lost_by["exit"] >= 2 * 503
    held = traced.pages.last_frame != NO_FRAME
    assert set(traced.pages.space[held].tolist()) == {1}  # the shell's
    assert len(set(traced.pages.space.tolist())) >= 3
    assert books.mapped == int(held.sum())
    assert books.resident == len(np.unique(traced.pages.last_frame[held]))
    assert traced.result.mapped[-1][1] == books.mapped
    assert traced.result.resident[-1][1] == books.resident


def test_what_could_not_be_held_to_the_end_is_not_known(attached: Attached) -> None:
    """What is resident then: no figure, no verdict. What was mapped is by the records."""
    traced = run(attached, ["/bin/true"], pin=False)
    books = traced.books
    assert (books.resident, books.resident_growth) == (None, None)
    assert books.mapped is not None
    check_books(traced, books.missed)
    values = Figures().values(books)
    assert values["resident"] is values["growth"] is values["peak"] is None
    for text in ("resident>64MiB", "growth>0", "peak>64MiB"):
        verdict = verdict_of(books, values, [parse_budget(text)], strict=False)
        assert verdict.status == Exit.INEXACT


def test_multimap_by_itself(attached: Attached, tmp_path: Path) -> None:
    """The demo: five rwx pages, each one anonymous write fault, in the order they are written."""
    output = tmp_path / "out"
    traced = run(attached, [*MULTIMAP, "--auto", "--interval", "0.05"], output)
    check_books(traced, traced.books.missed if traced.probe == "perf" else 0)
    written = [
        int(line.split()[-1], 16)
        for line in output.read_text().splitlines()
        if line.startswith("data written to")
    ]
    assert len(written) == 5
    regions = [traced.names.regions[int(region)].perms for region in traced.rows["region"]]
    rwx = traced.rows[np.array([perms.startswith("rwx") for perms in regions])]
    assert rwx["address"].tolist() == written
    assert set(rwx["kind"].tolist()) == {Kind.ANON}
    assert set(rwx["cause"].tolist()) == {Cause.USER}


def test_multimap_step_by_step(attached: Attached) -> None:
    """Attached while it waits: each Enter is one fault, whose frame pagemap shows at once."""
    with subprocess.Popen(MULTIMAP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as demo:
        assert demo.stdin is not None
        assert demo.stdout is not None
        demo.stdin.write(b"\n")  # the first one: the pages are mapped
        demo.stdin.flush()
        mapped = [_address(demo.stdout, b"Allocated page at") for _ in range(5)]
        log = Collect()
        session = Session(attached, Plan(pids=[demo.pid]), Outputs(log=[log]))
        started = threading.Event()
        runner = threading.Thread(target=session.run, args=(started.set,))
        runner.start()
        started.wait()
        seen = []
        for _ in mapped:
            demo.stdin.write(b"\n")
            demo.stdin.flush()
            seen.append(_address(demo.stdout, b"data written to"))
        with PageMap(demo.pid) as pagemap:
            truth = [int(frames(pagemap.read(page, page + 4096))[0]) for page in seen]
        session.stop()
        runner.join()
        demo.kill()
    assert sorted(seen) == sorted(mapped)
    rows = log.rows[np.isin(log.rows["address"], np.array(seen, np.uint64))]
    assert rows["address"].tolist() == seen
    assert rows["frame"].tolist() == truth
    assert (rows["confirmed"] == Confirmed.BOTH).all()


def _address(stream: object, words: bytes) -> int:
    for line in stream:  # type: ignore[attr-defined]
        if line.startswith(words):
            return int(line.split()[-1], 16)
    raise AssertionError(f"no line with {words!r}")


def test_auto_selects_an_exact_probe() -> None:
    """Exactness before cost: fentry only where its handlers cannot be preempted."""
    chosen = attach("auto", bpf_dir())
    try:
        assert not chosen.probe.inexact()
        assert chosen.probe.name == "fentry" or "fentry" in chosen.reason
    finally:
        chosen.close()


# Each starts Python, which takes seconds under emulation.
WAYS = ["exec"] if GUEST else ["alone", "exec", "threads"]
DISCARDS = """
import mmap, threading
page, done = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), threading.Event()
other = threading.Thread(target=done.wait)
if THREADS:
    other.start()
for _ in range(97):
    page[0] = 1
    page.madvise(mmap.MADV_DONTNEED)
done.set()
"""


@pytest.mark.parametrize("way", WAYS)
def test_its_pin_is_no_sharer(
    attached: Attached, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A call's beginning is recorded only where others may fault meanwhile: the pin never does."""
    begun: list[int] = []
    follow = Calls.begin

    def counting(calls: Calls, call: SystemCall) -> None:
        begun.append(call.number)
        follow(calls, call)

    monkeypatch.setattr(Calls, "begin", counting)
    script = DISCARDS.replace("THREADS", str(way == "threads"))
    argv = [sys.executable, "-c", script]
    again = ["/bin/sh", "-c", 'sleep 0.3; exec "$@"; :', "sh", *argv]
    traced = run(attached, again if way == "exec" else argv)
    check_books(traced, traced.books.missed)
    assert traced.result.exit_status == 0
    assert traced.books.lost_by["madvise"] >= 97
    madvise = begun.count(28)
    if way == "threads":
        assert madvise >= 97
    elif way == "alone":
        assert begun == []
    else:  # held anew as soon as the exec is seen: the calls before that may be recorded
        assert madvise <= 97


def test_the_last_snapshot_is_of_the_last_memory(attached: Attached, tmp_path: Path) -> None:
    """An exec may come so late that what is held is the memory before it: that is not shown."""
    argv = ["setarch", "-R", *command("dontneed", 5)]
    traced = run(attached, argv, tmp_path / "output")
    check_books(traced, traced.books.missed)
    assert traced.books.lost_by["munmap"] < 50  # not all that its last program had
    # Whatever memory was read, what setarch had went with its exec.
    last = traced.pages.space == traced.pages.space.max()
    names = {traced.names.regions[number].name for number in traced.pages.region[last]}
    assert not any(name.endswith("/setarch") for name in names)


ALIKE = ("first_kind", "first_source", "last_source", "gains", "losses", "last_loss", "region")
ADDR_NO_RANDOMIZE = 0x0040000


@pytest.fixture
def same_addresses() -> Iterator[None]:
    """For processes that the test starts: no address space randomisation."""
    personality = ctypes.CDLL(None).personality
    before = personality(0xFFFFFFFF)
    personality(before | ADDR_NO_RANDOMIZE)
    yield
    personality(before)


@pytest.mark.usefixtures("same_addresses")
def test_pinned_or_not_its_pages_are_reported_alike(attached: Attached, tmp_path: Path) -> None:
    """What is held for the last snapshot changes nothing of what came before it."""
    reported = []
    for pin in (True, False):
        traced = run(attached, command("dontneed", 211), tmp_path / "output", pin=pin)
        check_books(traced, traced.books.missed)
        table = traced.table(traced.report.ranges["anon"])
        assert len(table) == 211
        reported.append(
            {
                page: [
                    traced.names.regions[row[name]].name if name == "region" else row[name]
                    for name in ALIKE
                ]
                for page, row in table.items()
            }
        )
    assert reported[0] == reported[1]
