"""What is still resident is of the fault that brought it."""

from pathlib import Path

import numpy as np

from tests.unit.outputs_data import START, rows, table
from tests.unit.report_data import MS, stacked, written
from tracer.common.pages import NO_FRAME
from tracer.model.sources import Loss, Source
from tracer.reporting.pictures.weighing import weigh
from tracer.reporting.reading.run import Run, load


def pages_of(run: Run) -> list[int]:
    found: list[int] = (weigh(run, "resident").values // 4096).tolist()
    return found


def test_resident_pages_are_of_the_fault_that_brought_them(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert pages_of(run) == [0, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert weigh(run, "resident").left_out == ""


def test_a_page_that_came_back_is_of_the_later_fault(tmp_path: Path) -> None:
    faults = rows(4, comm=1, region=1)
    faults["address"][:] = faults["address"][0]
    pages = table(faults[:1])
    pages.gains[:], pages.losses[:] = 3, 2
    pages.last_time_ns[:] = START + 2 * MS
    assert pages_of(load(written(tmp_path / "t.csv", faults, pages=pages))) == [0, 0, 1, 0]
    pages.last_time_ns[:] = START + 9 * MS  # a moment of no fault: the last one on the page
    assert pages_of(load(written(tmp_path / "u.csv", faults, pages=pages))) == [0, 0, 0, 1]


def test_neighbours_are_of_the_fault_they_came_with(tmp_path: Path) -> None:
    faults = rows(2, comm=1, region=1)
    faults["pages"][:] = 16, 1
    pages = table(rows(20, comm=1, region=1))
    pages.last_source[:] = [Source.FAULT] * 2 + [Source.AROUND] * 15 + [Source.INITIAL] * 3
    pages.last_time_ns[:] = [START, START + MS] + [START] * 18
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [16, 1]
    assert weigh(run, "resident").left_out == (
        "Not shown, as no fault of this trace brought it: 12 KiB present at the start."
    )


def test_another_space_at_the_same_moment_is_another_page(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1, time_ns=START, space=[1, 2, 3])
    faults["address"][:] = faults["address"][0]
    pages = table(faults[np.array([2, 1])])
    assert pages_of(load(written(tmp_path / "t.csv", faults, pages=pages))) == [0, 1, 1]


def test_a_frame_moved_in_place_is_of_the_fault_that_filled_it(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1)
    pages = table(faults)
    pages.last_source[:] = [Source.MIGRATE, Source.COLLAPSE, Source.SWAPOFF]
    pages.last_time_ns[:] = START + 50 * MS
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [1, 1, 0]
    assert "4 KiB by swapoff" in weigh(run, "resident").left_out


def test_faults_that_were_filtered_out_are_reported(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1)
    pages = table(faults)
    run = load(written(tmp_path / "t.csv", faults[:2], pages=pages))
    assert pages_of(run) == [1, 1]
    assert "4 KiB by faults without a row in the CSV" in weigh(run, "resident").left_out


def test_pages_that_are_gone_count_for_nobody(tmp_path: Path) -> None:
    faults = rows(2, comm=1, region=1)
    pages = table(faults, last_frame=[NO_FRAME] * 2, last_loss=[Loss.MUNMAP] * 2)
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [0, 0]
