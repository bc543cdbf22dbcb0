"""What must hold of the tracer's outputs when some of them cannot be written, whatever the cause.

One line names each file that failed; the others are whole, the command ran to its end, and
nothing is left: no draft, no probe, no half-written file that passes for a whole one.
"""

import csv
import json
import subprocess
from pathlib import Path

from tests.live import cli
from tracer.common.errors import Exit
from tracer.outputs.csv import columns
from tracer.outputs.pages import PAGE_COLUMNS
from tracer.outputs.stacks import STACK_COLUMNS

CSV, META, STACKS, PAGES, TEXT = FILES = (
    *("a.csv", "a.csv.meta.json", "a.csv.stacks.csv", "p.csv", "o.txt"),
)
OLD = "precious\n"


def options(folder: Path) -> tuple[str | Path, ...]:
    """Every output there is, each a file in `folder`."""
    files = ("--csv", folder / CSV, "--pages-csv", folder / PAGES, "-o", folder / TEXT)
    return (*files, "--stacks")


def traced(folder: Path, *more: str) -> cli.Done:
    """A command traced with all outputs; it says so when it has run to its end."""
    with cli.nothing_left_attached():
        return cli.run(*options(folder), *more, "--", "sh", "-c", "true; echo ran")


def failed(done: cli.Done) -> set[str]:
    """The files that the run says could not be written; a line each."""
    lines = done.err.splitlines()
    for line in lines:
        assert line.startswith("pagefault-trace: cannot "), done.err
        assert "; " in line, done.err  # and what to do
    names = [line.split(": ")[1].rpartition("/")[2].split(" ")[0] for line in lines]
    assert len(set(names)) == len(names), done.err
    return set(names)


def check(folder: Path, done: cli.Done, *, old: bool = False) -> set[str]:
    """All that must hold; returns the names of the files that could not be written.

    `old`: each file was there before, with OLD in it, and --force was given.
    """
    names = failed(done)
    there = {path.name for path in folder.iterdir()}
    assert there <= set(FILES), there
    if not names:
        assert done.status == 0, done
    else:
        assert done.status == Exit.TRACER_FAILED, done
    if done.out != "ran\n":  # it never began
        assert (done.out, bool(names)) == ("", True), done
        assert there == (set(FILES) if old else set()), there
        for name in there:
            assert (folder / name).read_text() == OLD or (name, names) == (META, {META})
        return names
    state = _state(folder / META)
    for name in (CSV, STACKS):
        if not (old and name in names and (folder / name).read_text() == OLD):  # never emptied
            _whole_lines(folder / name, name)
        if name in names:
            assert state in ("failed", "running"), (name, state)
    if META not in names and not {CSV, STACKS} & names:
        assert state == "finished"
    if PAGES in names:  # nothing, or what was there
        assert (PAGES in there) == old
        assert not old or (folder / PAGES).read_text() == OLD
    else:
        assert "," in _whole_lines(folder / PAGES, PAGES)[1]
    text = (folder / TEXT).read_text()
    assert TEXT in names or "books: " in text
    return names


def _state(path: Path) -> object:
    """Of FILE.meta.json, which is whole in any case."""
    return json.loads(path.read_text())["state"]


def _whole_lines(path: Path, name: str) -> list[str]:
    text = path.read_text()
    assert text == "" or text.endswith("\n"), text[-80:]
    expected = {CSV: columns(stacks=True), STACKS: STACK_COLUMNS, PAGES: PAGE_COLUMNS}[name]
    lines = list(csv.reader(text.splitlines()))
    assert lines[:1] == [list(expected)][: len(lines)]
    assert all(len(line) == len(expected) for line in lines)
    return text.splitlines()


def renew(folder: Path, *, old: bool) -> None:
    """Only files of other runs are there, or none."""
    for path in folder.iterdir():
        path.unlink()
    for name in FILES if old else ():
        (folder / name).write_text(OLD)


def full_disk(folder: Path, how: str) -> "subprocess.CompletedProcess[bytes]":
    """Mount a small tmpfs at `folder`, which is made: `size=8k`, `nr_inodes=3`."""
    folder.mkdir()
    return subprocess.run(["mount", "-t", "tmpfs", "-o", how, "none", folder], check=True)
