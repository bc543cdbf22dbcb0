"""A real trace, reported on: the report agrees with the books, and the books with the kernel."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import cli
from tests.live.workload import Range, command, parse

if not os.environ.get("CI"):
    pytest.importorskip("pyarrow", reason="pyarrow is not there: run tools/bootstrap")
    pytest.importorskip("matplotlib", reason="matplotlib is not there: run tools/bootstrap")

from tracer.reporting.analysis.curves import mapped
from tracer.reporting.exports.chrome import chrome
from tracer.reporting.pictures.html import page
from tracer.reporting.pictures.replay import replay
from tracer.reporting.reading.run import Run, load
from tracer.reporting.text.overview import head, sentences
from tracer.reporting.text.tables import Tables

PAGES = 101


@dataclass(frozen=True)
class Traced:
    """A run as the report sees it, and its books."""

    run: Run
    books: dict[str, int]
    gained_by: dict[str, int]
    where: Range


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.csv"
        files = ("--csv", path, "--pages-csv", path.with_name("p.csv"), "--quiet")
        done = cli.run(*files, "--", *command("anon-write", PAGES))
        assert (done.status, done.err) == (0, "")
        books = cli.books(path)
        gained_by = cli.meta(path)["books"]["gained_by"]  # type: ignore[index]
        where = parse(done.out.splitlines()).ranges["anon"]
        yield Traced(load(str(path)), books, gained_by, where)


def test_every_fault_is_there(traced: Traced) -> None:
    faults, books = traced.run.faults, traced.books
    assert len(faults) == books["traced"] + books["failed"]
    gained = traced.gained_by
    assert int(faults.pages.sum()) == gained.get("fault", 0) + gained.get("around", 0)
    assert traced.run.notes == []


def test_the_workloads_pages_are_its_own(traced: Traced) -> None:
    faults, where = traced.run.faults, traced.where
    mine = faults.select((faults.address >= where.start) & (faults.address < where.end))
    assert len(mine) == PAGES
    assert mine.kind.counts().tolist().count(PAGES) == 1
    assert int(mine.pages.sum()) == PAGES


def test_resident_memory_ends_where_the_books_do(traced: Traced) -> None:
    run, books = traced.run, traced.books
    curve = mapped(run)
    assert int(curve.pages[-1]) == books["gained"] - books["given_up"] == books["mapped_change"]
    assert run.pages is not None
    assert int(run.pages.present.sum()) == books["mapped_change"]
    found = replay(run, curve)
    assert found.faults[-1] == len(run.faults)
    assert found.mapped[-1] == books["mapped_change"]
    assert int(found.events.new.sum()) - int(found.events.gone.sum()) == books["mapped_change"]


def test_the_words_agree(traced: Traced) -> None:
    run = traced.run
    said = sentences(Tables(run, mapped(run)))
    assert said[-1] == f"The books balance: the kernel counted {traced.books['kernel']:,} faults."
    assert f"{len(run.faults):,} faults, 0 lost" in head(run).counts
    assert os.uname().release in head(run).origin
    assert len(page(run)) > 10_000
    events = json.loads(b"".join(chrome(run)))["traceEvents"]
    assert sum(event["ph"] in "Xi" for event in events) == len(run.faults)


def test_the_program_reports_without_rights(traced: Traced) -> None:
    """Another user, who may read the files but nothing else, gets the same."""
    program = [sys.executable, "-m", "tracer.reporting.cli", traced.run.path]
    folder = Path(traced.run.path).parent
    folder.chmod(0o755)
    done = subprocess.run(
        program, cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True,
        timeout=cli.SECONDS, user=65534, group=65534, extra_groups=[],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "The books balance" in done.stdout
