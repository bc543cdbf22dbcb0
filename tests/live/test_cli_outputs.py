"""What the options do, through the program itself: lines, CSV, pages, facts, filters, users."""

import os
import pwd
import re
import select
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import cli
from tests.live.workload import Range, Workload, command, parse
from tracer.outputs.csv import COLUMNS

PAGES = 101


@dataclass(frozen=True)
class Run:
    """One run with every output, and the workload's own word on it."""

    done: cli.Done
    folder: Path
    where: Range

    def rows(self) -> list[dict[str, str]]:
        return cli.rows(self.folder / "a.csv")

    def mine(self, rows: list[dict[str, str]], column: str = "address") -> list[dict[str, str]]:
        """Those on the workload's range."""
        return [row for row in rows if self.where.start <= int(row[column], 16) < self.where.end]

    def text(self) -> str:
        return (self.folder / "a.txt").read_text()


@pytest.fixture(scope="module")
def everything() -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = ("--csv", folder / "a.csv", "--pages-csv", folder / "p.csv", "-o", folder / "a.txt")
        options = ("--symbols", "--time", "monotonic", "--kind", "anon", "--perms", "rw")
        with cli.nothing_left_attached():
            done = cli.run(*files, *options, "--", *command("anon-write", PAGES))
        assert (done.status, done.err) == (0, "")
        yield Run(done, folder, parse(done.out.splitlines()).ranges["anon"])


def test_the_csv_has_every_fault(everything: Run) -> None:
    rows = everything.rows()
    assert list(rows[0]) == list(COLUMNS)
    assert [int(row["number"]) for row in rows] == list(range(1, len(rows) + 1))
    mine = everything.mine(rows)
    pages = [int(row["address"], 16) & ~4095 for row in mine]
    assert sorted(pages) == everything.where.addresses()
    assert {row["kind"] for row in mine} == {"anon"}
    kinds = {row["kind"] for row in rows}
    assert {"anon", "cow", "file"} <= kinds  # --kind chooses what is shown, not what is logged


def test_the_meta_file_describes_the_run(everything: Run) -> None:
    meta = cli.meta(everything.folder / "a.csv")
    books = cli.books(everything.folder / "a.csv")
    assert meta["state"] == "finished"
    assert meta["exit_status"] == 0
    assert meta["command"] == command("anon-write", PAGES)
    assert meta["filters"] == {"perms": "rw", "kind": "anon"}
    assert books["traced"] + books["failed"] == len(everything.rows())
    assert books["conflict"] == 0


def test_the_pages_file_has_a_row_a_page(everything: Run) -> None:
    pages = everything.mine(cli.rows(everything.folder / "p.csv"), "page")
    assert sorted(int(row["page"], 16) for row in pages) == everything.where.addresses()
    frames = {int(row["address"], 16) & ~4095: row["frame"] for row in everything.rows()}
    for row in pages:
        assert (row["first_source"], row["gains"]) == ("fault", "1")
        assert row["first_frame"] == frames[int(row["page"], 16)]


def test_the_text_shows_what_was_picked(everything: Run) -> None:
    """Header once, plain; the note and the books count what is not shown."""
    text = everything.text()
    assert "\x1b" not in text
    assert text.startswith("        TIME THREAD")
    assert len(re.findall(r"^ *TIME ", text, re.M)) == 1
    lines = cli.fault_lines(text)
    assert lines
    assert all(" anon " in line for line in lines)
    rows = everything.rows()
    picked = [row for row in rows if row["kind"] == "anon" and row["perms"].startswith("rw")]
    assert f"shows {len(picked)} of {len(rows)} faults" in text
    assert f"books: {len(rows)} faults traced = {len(rows)} the kernel counted" in text


def test_symbols_and_clock(everything: Run) -> None:
    mine = everything.mine(everything.rows())
    symbols = {row["symbol"] for row in mine}
    assert all(re.fullmatch(r"\w+\+0x[0-9a-f]+", symbol) for symbol in symbols)
    lines = cli.fault_lines(everything.text())
    first = min(int(row["time_ns"]) for row in everything.rows())
    assert all(float(line.split()[0]) * 1e9 >= first - 1000 for line in lines)
    assert any(symbol in line for line in lines for symbol in symbols)


def test_with_a_text_file_stdout_is_the_commands(everything: Run) -> None:
    assert "TIME" not in everything.done.out
    assert "books:" not in everything.done.out
    assert everything.done.out.endswith("done\n")


def test_csv_on_stdout_alone() -> None:
    """No line between the rows; the summary is on stderr."""
    done = cli.run("--csv", "-", "--", "true")
    assert done.status == 0
    rows = cli.parse_rows(done.out)
    assert len(rows) > 20
    assert not cli.fault_lines(done.err)
    assert f"books: {len(rows)} faults traced" in done.err


def _steps(work: Workload, attached: cli.Attached) -> tuple[cli.Done, int]:
    """Let the workload act under the tracer; how it ended, and faults counted in between."""
    before = cli_faults(work.pid)
    work.go()
    faults = cli_faults(work.pid) - before
    return attached.end(), faults


def cli_faults(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[7]) + int(fields[9])


def test_filters_in_the_kernel_are_counted(tmp_path: Path) -> None:
    with Workload("anon-write", PAGES) as work:
        where = work.range()
        middle = where.start + 40 * 4096
        span = f"{where.start:#x}-{middle:x}"
        with cli.Attached(work.pid, tmp_path / "a.csv", "--range", span, "-q") as attached:
            done, _ = _steps(work, attached)
    assert done.status == 0
    rows = cli.rows(tmp_path / "a.csv")
    assert sorted(int(row["address"], 16) & ~4095 for row in rows) == where.addresses()[:40]
    books = cli.books(tmp_path / "a.csv")
    assert books["traced"] == 40
    assert books["filtered"] >= PAGES - 40
    assert books["traced"] + books["filtered"] == books["kernel"]
    assert "filtered out" in done.out
    assert not cli.fault_lines(done.out)  # --quiet
    assert cli.meta(tmp_path / "a.csv")["filters"] == {"range": f"{where.start:#x}-{middle:#x}"}


def test_an_empty_run_balances_and_has_its_header(tmp_path: Path) -> None:
    with Workload("anon-write", PAGES) as work:
        options = ("--min-latency", "10s", "--pages-csv", tmp_path / "p.csv")
        with cli.Attached(work.pid, tmp_path / "a.csv", *options) as attached:
            done, _ = _steps(work, attached)
    assert done.status == 0
    assert (tmp_path / "a.csv").read_text() == ",".join(COLUMNS) + "\n"
    books = cli.books(tmp_path / "a.csv")
    assert (books["traced"], books["filtered"]) == (0, books["kernel"])
    assert books["kernel"] >= PAGES
    assert not cli.fault_lines(done.out)
    assert "books: 0 faults traced" in done.out


@pytest.mark.parametrize("children", [True, False])
def test_children(tmp_path: Path, children: bool) -> None:
    script = '"$@"; exit 0'
    option = "--children" if children else "--no-children"
    arguments = ("--csv", tmp_path / "a.csv", "-q", option)
    work = command("anon-write", PAGES)
    done = cli.run(*arguments, "--", "sh", "-c", script, "sh", *work)
    where = parse(done.out.splitlines()).ranges["anon"]
    rows = cli.rows(tmp_path / "a.csv")
    cli.books(tmp_path / "a.csv")
    seen = [row for row in rows if where.start <= int(row["address"], 16) < where.end]
    comms = {row["comm"] for row in seen}
    assert (len(seen), comms) == ((PAGES, {"workload"}) if children else (0, set()))
    assert len({row["pid"] for row in rows}) == 1 + children


def test_a_shell_that_traces_itself(tmp_path: Path) -> None:
    """`--pid $$`: the tracer is a child of what it traces, and no part of it."""
    script = 'echo $$; "$@" --pid $$; exit $?'
    tracer = cli.argv("--duration", "0.5", "-q", "--csv", tmp_path / "a.csv")
    shell = subprocess.run(
        ["sh", "-c", script, "sh", *tracer],
        check=True,
        capture_output=True,
        text=True,
        env=cli.environment(),
        timeout=cli.SECONDS,
    )
    assert {row["pid"] for row in cli.rows(tmp_path / "a.csv")} <= {shell.stdout.split()[0]}


def test_wall_clock(tmp_path: Path) -> None:
    before = time.time()
    done = cli.run("--time", "wall", "--", "true")
    clocks = [line.split()[0] for line in cli.fault_lines(done.out)]
    first, last = (time.localtime(at) for at in (before - 1, time.time() + 1))
    assert clocks
    if first.tm_mday == last.tm_mday:
        low, high = time.strftime("%H:%M:%S", first), time.strftime("%H:%M:%S", last)
        assert all(low <= clock[:8] <= high for clock in clocks)


def test_another_user(tmp_path: Path) -> None:
    """The command runs as them, and what is written is theirs."""
    nobody = pwd.getpwnam("nobody")
    files = {"--csv": "a.csv", "--pages-csv": "p.csv", "--output": "a.txt"}
    arguments = [word for option, name in files.items() for word in (option, tmp_path / name)]
    done = cli.run("--user", "nobody", *arguments, "--", "id", "-u")
    assert (done.status, done.out) == (0, f"{nobody.pw_uid}\n")
    for name in (*files.values(), "a.csv.meta.json"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == (nobody.pw_uid, nobody.pw_gid)


def test_several_processes(tmp_path: Path) -> None:
    csv_file = tmp_path / "a.csv"
    with (
        Workload("anon-write", 11) as one,
        Workload("anon-write", 13) as two,
        cli.Attached(one.pid, csv_file, "--pid", two.pid, "-q") as attached,
    ):
        one.go()
        two.go()
        assert attached.end().status == 0
        ranges = {work.pid: work.range() for work in (one, two)}
    cli.books(csv_file)
    pids: Counter[int] = Counter()
    for row in cli.rows(csv_file):
        where = ranges[int(row["pid"])]
        pids[int(row["pid"])] += where.start <= int(row["address"], 16) < where.end
    assert pids == {one.pid: 11, two.pid: 13}


def test_duration_ends_the_trace_and_not_the_command() -> None:
    """The command shares our stdin and stdout, and its status is ours when it ends."""
    script = "read x; echo heard $x; exit 5"
    process = subprocess.Popen(
        cli.argv("--duration", "0.2", "-q", "--", "sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("books:"):
            break
    assert process.poll() is None  # the trace is over; it waits
    out, _ = process.communicate("you\n", timeout=cli.SECONDS)
    assert (out, process.returncode) == ("heard you\n", 5)


def test_lines_come_soon(tmp_path: Path) -> None:
    """The time in a line against that of its arrival, page by page: 0.2 s at most (median)."""
    script = """
import mmap, sys
memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for at, line in enumerate(sys.stdin):
    memory[at << 12] = 1
"""
    late = []
    with subprocess.Popen(cli.python(script), stdin=subprocess.PIPE) as target:
        assert target.stdin is not None
        options = ("--time", "monotonic", "--kind", "anon")
        with cli.Attached(target.pid, tmp_path / "a.csv", *options) as attached:
            out = attached.process.stdout
            assert out is not None
            for _ in range(20):
                target.stdin.write(b"\n")
                target.stdin.flush()
                assert select.select([out], [], [], cli.SECONDS)[0]
                arrived = time.monotonic()
                lines = cli.fault_lines(os.read(out.fileno(), 1 << 16).decode())
                late += [arrived - float(line.split()[0]) for line in lines]
            attached.end()
        target.stdin.close()
    assert len(late) >= 19
    assert min(late) > 0
    assert statistics.median(late) <= 0.2


ARRAYS = """
import ctypes, mmap
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
arrays = [mmap.mmap(-1, size << 20, flags=private) for size in (4, 6)]
for array in arrays:
    array.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(array), 4096):
        array[at] = 1
    print(f"{ctypes.addressof(ctypes.c_char.from_buffer(array)):#x}")
"""


STACKS = """
import sys, threading, time
def work():
    begin.wait()
    sys.setrecursionlimit(10 ** 6)
    deeper(200)
def deeper(left):
    if left:
        sorted([left], key=lambda each: deeper(left - 1))
begin = threading.Event()
threads = [threading.Thread(target=work) for _ in range(3)]
for each in threads:
    each.start()
time.sleep(0.2)
print(flush=True)
if sys.argv[1:]:
    sys.stdin.readline()
begin.set()
for each in threads:
    each.join()
"""


@pytest.mark.parametrize("there", [False, True])
def test_thread_stacks_are_a_row(tmp_path: Path, there: bool) -> None:
    """By the stack pointers with which threads began, or with which they wait when we come."""
    if there:
        program = [*cli.python(STACKS), "wait"]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
            assert target.stdin
            assert target.stdout
            target.stdout.readline()
            with cli.Attached(target.pid, tmp_path / "faults.csv") as trace:
                target.stdin.close()
                done = trace.end(None)
    else:
        done = cli.run("--quiet", "--", *cli.python(STACKS))
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if "[anon] thread stacks" in line)
    assert int(line.split()[0]) >= 3 * 20


def test_two_arrays_are_two_rows(tmp_path: Path) -> None:
    """Whether the kernel made one mapping of them or not; with and without a file of pages."""
    for files in ((), ("--pages-csv", tmp_path / "pages.csv")):
        done = cli.run("--quiet", *files, "--", *cli.python(ARRAYS))
        assert done.status == 0, done.err
        for address, size in zip(re.findall("^0x.*$", done.out, re.MULTILINE), (4, 6), strict=True):
            (line,) = (line for line in done.out.splitlines() if f"[anon] {address}" in line)
            assert line.split()[:2] == [str(size * 256)] * 2
