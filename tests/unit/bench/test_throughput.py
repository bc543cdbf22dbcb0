"""The whole way from records to files, byte by byte: what is made faster must stay the same."""

from collections import Counter
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.feed import PID, STARTED_NS, Feed, mixture, storm
from bench.replay import FedRing, recording
from bench.throughput import Stages, markdown, measure, replay, table
from tests.unit.faults_data import LAYOUT
from tracer.files.output import open_output
from tracer.model.rows import Kind
from tracer.outputs.csv import CsvOutput
from tracer.outputs.pages import write_pages
from tracer.outputs.summary import Summary
from tracer.session.result import books_of, pop_page_tables
from tracer.snapshots.snapshots import Snapshot

FAULTS = 9000
PORTIONS = (1, 2, 60, 70, 700, 3000)  # records that are in the ring at once, in turn


# What the books have had since the digests were taken; nothing of it happens here.
SINCE = (
    *("failed_lost", "failed_filtered", "foreign_lost", "foreign_filtered"),
    *("kernel_at_least", "kernel_reason", "blind_faults", "under_way"),
    *("resident", "resident_growth", "resident_peak", "unseen_fills"),
)
# What these were called then.
BEFORE = {"mapped": "resident", "mapped_change": "resident_change"}


def run(feed: Feed, folder: Path) -> dict[str, Any]:
    """The files a trace of `feed` writes, its books, and what the summary counted."""
    csv = CsvOutput(open_output(str(folder / "faults.csv"), force=True))
    pages = open_output(str(folder / "pages.csv"), force=True)
    summary, ring = Summary(), FedRing(1 << 12)
    with recording(feed, LAYOUT, ring) as recorder:
        at = turn = 0
        while at < len(feed.records):
            size = PORTIONS[turn % len(PORTIONS)]
            ring.put(feed.records[at : at + size])
            at, turn = at + size, turn + 1
            for rows in recorder.cycle():
                summary.write(rows, recorder.parts.names)
                csv.write(rows, recorder.parts.names)
            recorder.life.retire(None)
        shot = last_snapshot(feed)
        recorder.comparison.observe(1, shot, recorder.gaps.unrecorded())
        recorder.comparison.observe(1, shot, recorder.gaps.unrecorded())
        books = asdict(books_of(recorder))
        for later in SINCE:
            assert not books.pop(later)
        books = {BEFORE.get(name, name): value for name, value in books.items()}
        regions = recorder.parts.names.regions
        for by_region in ("gained_in", "lost_in"):  # by what they are: numbers are ours alone
            named = Counter[str]()
            for number, count in books[by_region].items():
                named[str(regions[number]).replace(", file=0", "")] += count
            books[by_region] = sorted(named.items())
        write_pages(pages, pop_page_tables(recorder.parts), recorder.parts.names)
    csv.close()
    pages.close()
    ring.close()
    return {
        "faults": (folder / "faults.csv").read_bytes(),
        "pages": (folder / "pages.csv").read_bytes(),
        "books": books,
        "summary": {
            kind.name: (group.faults, group.major, group.gained, group.latencies.quantile(0.9))
            for kind, group in summary._kinds.items()
        },
    }


def last_snapshot(feed: Feed) -> Snapshot:
    """What pagemap shows of the first process when all is over."""
    pages, frames = np.array([*feed.last.items()], np.uint64).reshape(-1, 2).T.copy()
    then = STARTED_NS * 2
    return Snapshot(PID, then, then + 1, feed.mappings, pages, frames, pages[:0])


def digest(found: dict[str, Any]) -> str:
    text = repr({**found, "faults": "", "pages": ""}).encode()
    return blake2b(found["faults"] + found["pages"] + text, digest_size=12).hexdigest()


# What the code wrote before any of it was made for speed. A change of a column or of a rule
# changes these: then hold the two versions' files against each other, and take the new ones.
GOLDEN = {
    ("storm", True): "50f0a8c0f45f534f47dda30e",
    ("storm", False): "50f0a8c0f45f534f47dda30e",
    ("mixture", True): "ff0890ba1a5c9e4a7b6a4982",
    ("mixture", False): "572ddf1c5a365c665db31a49",
}


@pytest.mark.parametrize(("name", "own_mapping"), GOLDEN)
def test_the_files_are_what_they_were(name: str, own_mapping: bool, tmp_path: Path) -> None:
    make = {"storm": storm, "mixture": mixture}[name]
    found = run(make(LAYOUT, FAULTS, own_mapping=own_mapping), tmp_path)
    assert found["books"]["missed"] == found["books"]["conflict"] == 0
    assert found["books"]["kernel"] == found["books"]["traced"]
    assert digest(found) == GOLDEN[name, own_mapping]


def test_the_mixture_has_something_of_everything(tmp_path: Path) -> None:
    found = run(mixture(LAYOUT, FAULTS), tmp_path)
    kinds = {name for name, (faults, *_) in found["summary"].items() if faults}
    others = {"HUGETLB", "NUMA", "MIGRATION", "SPECIAL", "UFFD", "SHMEM", "UNKNOWN"}
    assert kinds == {kind.name for kind in Kind} - others
    assert {"fault", "around", "fork"} <= found["books"]["gained_by"].keys()
    assert {"munmap", "madvise", "replaced"} <= found["books"]["lost_by"].keys()


def test_the_bench_counts_each_stage_and_every_row(tmp_path: Path) -> None:
    feed = mixture(LAYOUT, 300)
    stages, rows = replay(feed, LAYOUT, open_output(str(tmp_path / "out.csv")))
    text = (tmp_path / "out.csv").read_text()
    assert rows == text.count("\n") - 1 > 300
    assert {"ring to numpy", "join, kinds", "page timeline", "CSV text"} <= stages.ns.keys()
    assert all(ns > 0 for ns in stages.ns.values())
    measured = measure("mixture", feed, LAYOUT, 1, tmp_path)
    text = table(measured)
    assert f"mixture: {len(feed.records)} records, {rows} rows" in text
    assert "ring to numpy alone" in text
    section = markdown([measured, measured])
    assert section.count("\n| ") == len(measured.ns) + 4
    assert all(line.count("|") == 4 for line in section.splitlines() if line.startswith("|"))


def test_a_stage_within_another_counts_for_itself_alone() -> None:
    stages = Stages()
    with stages.stage("outer"), stages.stage("inner"):
        sum(range(100_000))
    assert 0 < stages.ns["outer"] < stages.ns["inner"]
