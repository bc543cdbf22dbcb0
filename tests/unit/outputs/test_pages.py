"""One CSV row a page."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from tests.unit.outputs_data import HOSTILE, five, names, rows, table
from tracer.common.deadline import Enough
from tracer.common.pages import NO_FRAME
from tracer.files.output import open_output
from tracer.model.result import PageTable
from tracer.model.rows import Kind, Names, Region
from tracer.model.sources import Loss, Source
from tracer.outputs.pages import CHUNK, PAGE_COLUMNS, write_pages


def written(pages: PageTable | None, known: Names, path: Path) -> str:
    file = open_output(str(path), force=True)
    write_pages(file, None if pages is None else [pages], known)
    file.close()
    return path.read_text()


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_demo(tmp_path: Path) -> None:
    text = written(table(five()), names(), tmp_path / "p")
    assert text.splitlines()[:2] == [
        "space,pid,page,region,perms,first_time_ns,first_source,first_kind,first_fault,"
        "first_frame,last_frame,last_source,confirmed,gains,losses,last_time_ns,last_loss",
        "1,4242,0x7f03141a6000,[anon],rwxp,1000000000,fault,anon,1,"
        "0x28664d000,0x28664d000,fault,both,1,0,1000000000,",
    ]


def test_no_pages_is_a_header(tmp_path: Path) -> None:
    header = ",".join(PAGE_COLUMNS) + "\n"
    assert written(None, Names(), tmp_path / "p") == header
    assert written(table(rows(0)), Names(), tmp_path / "p") == header


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    pages = table(
        five(),
        space=np.zeros(5, np.uint32),
        pid=np.zeros(5, np.uint32),
        region=np.zeros(5, np.uint32),
        first_source=np.full(5, Source.INITIAL, np.uint8),
        first_kind=np.zeros(5, np.uint8),
        first_fault=np.zeros(5, np.uint64),
        first_frame=np.full(5, NO_FRAME, np.uint64),
        last_frame=np.full(5, NO_FRAME, np.uint64),
        last_source=np.full(5, Source.INITIAL, np.uint8),
        confirmed=np.zeros(5, np.uint8),
    )
    for row in read(written(pages, names(), tmp_path / "p")):
        assert {name for name, value in row.items() if value} == {
            *("page", "first_time_ns", "first_source", "last_source"),
            *("gains", "losses", "last_time_ns"),
        }


def test_every_source_release_and_kind_has_its_word(tmp_path: Path) -> None:
    count = max(len(Source), len(Loss), len(Kind))
    index = np.arange(count)
    pages = table(
        rows(count),
        first_source=(index % len(Source)).astype(np.uint8),
        last_loss=(index % len(Loss)).astype(np.uint8),
        first_kind=(index % len(Kind)).astype(np.uint8),
        confirmed=np.zeros(count, np.uint8),
    )
    cells = read(written(pages, names(), tmp_path / "p"))
    assert [row["first_source"] for row in cells[: len(Source)]] == [
        "" if source == 0 else source.name.lower() for source in Source
    ]
    assert [row["last_loss"] for row in cells[: len(Loss)]] == [
        "" if loss == 0 else loss.name.lower() for loss in Loss
    ]
    assert [row["first_kind"] for row in cells[: len(Kind)]] == [
        "" if kind == 0 else kind.name.lower() for kind in Kind
    ]
    by_fault = {"fault", "around"}
    assert all((row["confirmed"] == "fault") == (row["first_source"] in by_fault) for row in cells)


def test_hostile_regions_and_many_chunks(tmp_path: Path) -> None:
    known = Names()
    for name in HOSTILE:
        known.region(Region(0, 1 << 47, "rw-p", 0, name))
    count = CHUNK + 11
    pages = table(rows(count, region=np.arange(count) % len(known.regions)))
    text = written(pages, known, tmp_path / "p")
    assert text.count("\n") == count + 1
    assert [row["first_fault"] for row in read(text)] == [str(n + 1) for n in range(count)]


def test_what_is_broken_off_is_a_header(tmp_path: Path) -> None:
    """Half a table would look like a whole one."""
    file = open_output(str(tmp_path / "p"))
    answers = iter([False, False, True])
    with pytest.raises(Enough):
        write_pages(file, [table(rows(3 * CHUNK))], names(), lambda: next(answers))
    file.close()
    assert (tmp_path / "p").read_text() == ",".join(PAGE_COLUMNS) + "\n"
