"""A process that calls itself, its files and its functions what a terminal or a spreadsheet obeys.

Nothing of it may reach a terminal or a file raw, and every name must come back out of the CSV.
"""

import csv
import os
import pty
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import cli
from tests.unit.outputs_data import name_of
from tracer.common.errors import Exit
from tracer.common.text import decode

COMMS = [b"=1+1", b"-\x1b[2J", b'",="\n', b"\xff\r@;+x", b"\t=\x07\\x1b"]
FILES = [
    b"\x1b]0;owned\x07",
    b'a,"b",=1',
    b"\xff\xfe bytes",
    "\u202egpj.exe".encode(),
    b"cr\rtab\t;=1",
    b"back\\slash",
]
FUNCTION = b"a_function_of_thirty_characters"
HOSTILE_FUNCTION = b'=\x1b[31m,"f"\xff\r;\\n\' \xe2\x80\xae\n+x+x+x@+'.ljust(len(FUNCTION), b"x")

# Touches a page of each file under each name, calls the function in the library, and says so.
SCRIPT = """
import ctypes, mmap, os, sys
folder = os.fsencode(sys.argv[1])
libc = ctypes.CDLL(None)
PR_SET_NAME, anonymous = 15, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
keep = []
for comm in eval(sys.argv[2]):
    libc.prctl(PR_SET_NAME, comm, 0, 0, 0)
    keep.append(mmap.mmap(-1, 4096, flags=anonymous))
    keep[-1][0] = 1
for name in sorted(os.listdir(folder + b"/files")):
    fd = os.open(folder + b"/files/" + name, os.O_RDWR)
    keep.append(mmap.mmap(fd, 4096))
    keep[-1][0] = 1
library = ctypes.CDLL(os.fsdecode(folder) + "/lib.so")
library.enter()
print("ready", flush=True)
sys.stdin.readline()
"""
LIBRARY = """
static volatile char memory[1 << 16];
__attribute__((noinline)) static void a_function_of_thirty_characters(int at) { memory[at] = 1; }
void enter(void) { a_function_of_thirty_characters(1 << 15); }
"""


@dataclass(frozen=True)
class Stage:
    """What the hostile process needs, on disk."""

    folder: Path

    def command(self) -> Sequence[str]:
        return [*cli.python(SCRIPT), str(self.folder), repr(COMMS)]

    def paths(self) -> set[bytes]:
        return {os.fsencode(self.folder / "files") + b"/" + name for name in FILES}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        for file in FILES:
            with open(os.fsencode(folder / "files") + b"/" + file, "wb") as made:
                made.write(bytes(4096))
        library = folder / "lib.so"
        flags = ["-x", "c", "-O1", "-shared", "-fPIC", "-o", str(library), "-"]
        subprocess.run(["gcc", *flags], input=LIBRARY, text=True, check=True)
        content = library.read_bytes()
        assert content.count(FUNCTION) == 1
        library.write_bytes(content.replace(FUNCTION, HOSTILE_FUNCTION))
        yield Stage(folder)


def on_a_terminal(arguments: Sequence[str], answer: bytes = b"\n") -> tuple[int, str]:
    """Runs on a terminal of its own, answers the prompt; (status, what the terminal got)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(arguments[0], list(arguments), {**cli.environment(), "TERM": "xterm"})
    said, answered = b"", False
    deadline = time.monotonic() + cli.SECONDS
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            part = os.read(fd, 65536)
        except OSError:  # EIO: all have closed it
            break
        if not part:
            break
        said += part
        if not answered and b"ready" in said:
            answered = True
            os.write(fd, answer)
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), decode(said)


def assert_harmless(text: str, terminal: bool = False) -> None:
    """Nothing but characters that are drawn, and our own colours."""
    if terminal:
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    for line in text.split("\n"):
        assert line.isprintable(), repr(line)


def assert_all_came_back(stage: Stage, path: Path) -> None:
    """Every name is in the CSV; tests/unit/outputs/test_csv_duckdb.py reads such files."""
    text = path.read_text()
    assert_harmless(text)
    by_python = list(csv.DictReader(text.splitlines()))
    comms, regions, symbols = (
        {os.fsencode(name_of(row[column])) for row in by_python}
        for column in ("comm", "region", "symbol")
    )
    # The kernel cuts a name to 15 bytes, and takes none of its characters away.
    assert comms >= set(COMMS)
    assert regions >= stage.paths()
    assert HOSTILE_FUNCTION.partition(b"@")[0] in {name.rpartition(b"+")[0] for name in symbols}


def test_piped(stage: Stage, tmp_path: Path) -> None:
    files = ("--csv", tmp_path / "a.csv", "--pages-csv", tmp_path / "p.csv")
    command = stage.command()
    done = cli.run(*files, "--symbols", "--strict", "--", *command, stdin="\n")
    assert (done.status, done.err) == (0, "")
    assert_harmless(done.out)
    assert r"\x1b]0;owned\x07" in done.out
    assert_all_came_back(stage, tmp_path / "a.csv")
    pages = (tmp_path / "p.csv").read_text()
    assert_harmless(pages)
    regions = {os.fsencode(name_of(row["region"])) for row in csv.DictReader(pages.splitlines())}
    assert regions >= stage.paths()
    assert_harmless((tmp_path / "a.csv.meta.json").read_text())
    by_duckdb(tmp_path / "a.csv")


def by_duckdb(path: Path) -> None:
    """The same cells as for Python."""
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not there: run tools/bootstrap")
    found = duckdb.sql(f"select comm, region, symbol from '{path}'").fetchall()
    with path.open() as file:
        rows = [(row["comm"], row["region"], row["symbol"]) for row in csv.DictReader(file)]
    assert rows == [tuple(cell or "" for cell in row) for row in found]


def test_on_a_terminal(stage: Stage, tmp_path: Path) -> None:
    """Lines, tables and the pages' history; the command's own word is the command's."""
    options = ("--symbols", "--region", str(stage.folder), "--csv", tmp_path / "a.csv")
    status, said = on_a_terminal(cli.argv(*options, "--", *stage.command()))
    assert status == 0
    assert_harmless(said, terminal=True)
    assert r"\x1b]0;owned\x07" in said
    assert_all_came_back(stage, tmp_path / "a.csv")


def test_ptdump(stage: Stage) -> None:
    with subprocess.Popen(
        stage.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for options in ([], ["-g", "--region", "files"]):
            argv = [cli.argv()[0], "-m", "tracer.ptdump.cli", *options, str(process.pid)]
            piped = subprocess.run(
                argv, env=cli.environment(), capture_output=True, text=True, check=True
            )
            assert_harmless(piped.stdout)
            assert r"\x1b]0;owned\x07" in piped.stdout
            status, said = on_a_terminal(argv)
            assert status == 0
            assert_harmless(said, terminal=True)
        process.communicate("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--", "/no/\x1b]0;owned\x07"],
        ["--", "no\x1b[2J\nsuch"],
        ["--user", "\x1b[2J", "--", "true"],
        ["--csv", "/no/\x1b[2J\u202e/a", "--", "true"],
        ["--fail-if", "\x1b[2J>0", "--", "true"],
        ["--kind", "\x1b[2J", "--", "true"],
        ["--range", "\x1b[2J", "--", "true"],
        ["--\x1b[2J", "--", "true"],
        ["--probe", "\x1b[2J", "--", "true"],
        ["--pid", "\x1b[2J"],
    ],
)
def test_errors_name_things_harmlessly(arguments: list[str]) -> None:
    done = cli.run(*arguments)
    assert done.status in (Exit.USAGE, Exit.TRACER_FAILED, Exit.NOT_FOUND)
    assert done.err.count("\n") == 1
    assert_harmless(done.err)
    assert r"\x1b" in done.err
    assert r"\\x1b" not in done.err
