"""pagefault-report plot: where points are, and that pictures come out whole."""

import re
import struct
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.outputs_data import PAGE, info, rows, table
from tests.unit.report_data import MARKUP, demo, hostile, lossy, mixed, written
from tracer.common.errors import Exit, TraceError
from tracer.model.rows import Kind
from tracer.model.sources import Source
from tracer.reporting import cli
from tracer.reporting.analysis import density
from tracer.reporting.analysis.axis import axis_of
from tracer.reporting.analysis.gains import Gains, gains, without_address
from tracer.reporting.pictures.plot import _fitting, _spread, format_of, picture
from tracer.reporting.reading.columns import Words
from tracer.reporting.reading.run import identity, load


def points(pages: list[int], regions: list[str] | None = None, space: int = 1) -> Gains:
    count = len(pages)
    regions = regions or ["[anon]"] * count
    words = sorted(set(regions))
    return Gains(
        time_ns=np.arange(count),
        space=np.full(count, space, np.uint32),
        page=np.array(pages, np.uint64),
        span=np.ones(count, np.uint32),
        label=Words(["anon"], np.zeros(count, np.int32)),
        region=Words(words, np.array([words.index(name) for name in regions], np.int32)),
    )


def test_gaps_are_cut_and_the_order_stays() -> None:
    pages = [0x400, 0x401, 0x7F0000000, 0x7F0000002, 0x7FFF00000]
    made = points(pages)
    axis = axis_of(made)
    place = axis.position(identity(made.space, made.page))
    assert (np.diff(place) > 0).all()
    assert ((place > 0) & (place < 1)).all()
    assert len(axis.starts) == 3  # the page between two is kept, the rest is cut
    assert (np.diff(place) > 0.05).all()


def test_a_page_that_is_nowhere_on_the_axis() -> None:
    axis = axis_of(points([10, 11]))
    keys = identity(np.array([1, 1, 2]), np.array([9, 12, 10], np.uint64))
    assert np.isnan(axis.position(keys)).all()


def test_bands_are_regions() -> None:
    made = points([1, 2, 3, 900_000, 900_001], ["a", "a", "b", "b", "c"])
    bands = axis_of(made).bands
    assert [(band.name, band.pages) for band in bands] == [("a", 2), ("b", 2), ("c", 1)]
    assert all(band.low < band.high for band in bands)
    assert bands[0].high <= bands[1].low


@given(st.lists(st.integers(0, (1 << 45) - 1), min_size=1, max_size=200), st.integers(2, 20))
def test_every_page_has_a_position(pages: list[int], most: int) -> None:
    made = points(pages, [f"r{page % 7}" for page in pages])
    axis = axis_of(made, most)
    place = axis.position(identity(made.space, made.page))
    assert np.isfinite(place).all()
    assert ((place >= 0) & (place <= 1)).all()
    order = np.argsort(made.page, kind="stable")
    assert (np.diff(place[order]) >= 0).all()
    assert len(axis.starts) <= max(most, 2)


def test_every_gain_is_a_point(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1)
    faults["kind"][1], faults["pages"][1] = Kind.HUGE, 512
    faults["kind"][2], faults["pages"][2] = Kind.SPURIOUS, 0
    made = gains(load(written(tmp_path / "t.csv", faults)))
    assert made.label.words == ["anon", "huge", "spurious"]
    assert made.label.codes.tolist() == [0, 1]
    assert made.span.tolist() == [1, 512]
    assert int(made.page[1]) % 512 == 0
    assert int(made.page[1]) <= int(faults["address"][1]) >> 12 < int(made.page[1]) + 512


def test_neighbours_are_plotted_with_a_pages_file(tmp_path: Path) -> None:
    faults = rows(1, kind=Kind.FILE, pages=3, comm=1, region=1)
    three = table(rows(4, comm=1, region=1))
    three.first_source[:] = [Source.FAULT, Source.AROUND, Source.AROUND, Source.INITIAL]
    three.first_kind[:] = [Kind.FILE] * 3 + [Kind.UNKNOWN]
    run = load(written(tmp_path / "t.csv", faults, pages=three))
    made = gains(run)
    assert sorted(made.label.words[code] for code in made.label.codes) == [
        *("around", "around", "file")
    ]
    assert without_address(run) == 0
    assert len(gains(run, initial=True)) == 4
    alone = load(written(tmp_path / "u.csv", faults))
    assert len(gains(alone)) == 1
    assert without_address(alone) == 2


def test_one_point_among_millions_can_be_seen() -> None:
    x = np.r_[np.full(1_000_000, 0.25), 0.75]
    y = np.r_[np.random.default_rng(1).random(1_000_000) / 2, 0.9]
    label = np.r_[np.zeros(1_000_000, int), 1]
    image = density.pixels(x, y, label, ["#112233", "#ff0000"], 40, 40)
    assert image.shape == (40, 40, 4)
    assert image[36, 30, :3].tolist() == [255, 0, 0]
    assert image[36, 30, 3] >= 100
    assert image[5, 10].tolist()[:3] == [0x11, 0x22, 0x33]
    assert image[5, 10, 3] > image[36, 30, 3]
    assert (image[30:, :20, 3] == 0).all()


def test_colours_mix_by_how_many_there_are() -> None:
    counts = np.array([[[3.0, 1.0]]])
    assert density.shaded(counts, ["#000000", "#ff0000"])[0, 0, 0] == 64


@given(st.lists(st.floats(0, 1), max_size=40).map(sorted), st.floats(0.001, 0.02))
def test_labels_do_not_cover_each_other(wanted: list[float], apart: float) -> None:
    placed = _spread(wanted, apart)
    assert len(placed) == len(wanted)
    assert all(b - a >= apart * 0.999 for a, b in pairwise(placed))
    assert all(place <= 1 for place in placed)


def test_the_largest_regions_are_named() -> None:
    bands = axis_of(points([1, 2, 3, 9000, 90_000, 90_001], ["a", "a", "a", "b", "c", "c"])).bands
    assert [band.name for band in _fitting(bands, 2)] == ["a", "c"]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        *((make, "all") for make in (demo, lossy, hostile)),
        *((mixed, part) for part in ("map", "resident", "latency")),
    ],
)
def test_pictures_are_drawn(tmp_path: Path, make: object, part: str) -> None:
    run = load(make(tmp_path / "t.csv"))  # type: ignore[operator]
    png = picture(run, part, "png")  # type: ignore[arg-type]
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert width == 1560
    assert height > 400


def test_a_run_without_a_fault_is_drawn(tmp_path: Path) -> None:
    run = load(written(tmp_path / "t.csv", rows(0), facts=info(ended_monotonic_ns=0)))
    assert picture(run).startswith(b"\x89PNG")


def test_an_svg_holds_no_markup_of_names(tmp_path: Path) -> None:
    svg = picture(load(hostile(tmp_path / "t.csv")), "all", "svg").decode()
    root = ET.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "foreignObject", "a", "img"}
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
    assert not re.search(r"(?:href|src)=\"(?!#|data:)", svg)


def test_the_same_run_is_the_same_picture(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    assert picture(run, "map", "svg") == picture(run, "map", "svg")


def test_many_points_are_drawn_as_density(tmp_path: Path) -> None:
    count = 30_000
    address = 0x7F0000000000 + np.arange(count) * PAGE
    path = written(tmp_path / "t.csv", rows(count, address=address, comm=1, region=1))
    svg = picture(load(path), "map", "svg").decode()
    assert svg.count("<image") == 1
    assert len(svg) < 600_000


def test_many_processes_are_not_squeezed_in(tmp_path: Path) -> None:
    faults = rows(40, comm=1, region=1, space=np.arange(40) + 1, pid=np.arange(40) + 100)
    assert picture(load(written(tmp_path / "t.csv", faults)), "map").startswith(b"\x89PNG")


def test_the_name_says_the_format() -> None:
    assert format_of("a.svg") == "svg"
    assert format_of("A.PNG") == format_of("-") == "png"
    with pytest.raises(TraceError, match="not the name of a PNG or SVG") as caught:
        format_of("x.pdf")
    assert caught.value.code == Exit.USAGE


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = demo(tmp_path / "t.csv")
    assert cli.run(["plot", path]) == 0
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert cli.run(["plot", path]) == Exit.OUTPUT
    assert "exists already" in capsys.readouterr().err
    assert cli.run(["plot", "--force", path]) == 0
    assert cli.run(["plot", path, "--only", "map", "-o", str(tmp_path / "m.svg")]) == 0
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")
    assert MARKUP[0] not in (tmp_path / "m.svg").read_text()


def test_a_huge_page_is_one_piece(tmp_path: Path) -> None:
    faults = rows(2, kind=Kind.HUGE, pages=512, comm=1, region=1)
    faults["address"][:] = [0x7F0000000000, 0x7F0040000000]
    made = gains(load(written(tmp_path / "t.csv", faults)))
    axis = axis_of(made)
    assert (axis.ends - axis.starts).tolist() == [512, 512]
    assert [band.pages for band in axis.bands] == [1024]


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["plot"], "t.png"),
        (["html"], "t.html"),
        (["flame"], "t.svg"),
        (["export", "--chrome"], "t.chrome.json"),
    ],
)
def test_what_is_in_the_way_is_seen_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], made: str
) -> None:
    """A file that nobody could read is not read; nothing is left behind where it is."""
    path = tmp_path / "t.csv"
    path.write_text("nonsense\n")
    (tmp_path / made).write_text("precious")
    assert cli.run([*arguments, str(path)]) == Exit.OUTPUT
    assert "exists already" in capsys.readouterr().err
    assert cli.run([*arguments, str(path), "--force"]) == Exit.INPUT
    assert (tmp_path / made).read_text() == "precious"
    (tmp_path / made).unlink()
    assert cli.run([*arguments, str(path)]) == Exit.INPUT
    assert not (tmp_path / made).exists()


@pytest.mark.parametrize("weight", ["gained", "resident"])
def test_what_a_flame_graph_lacks_is_said_before_the_faults_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weight: str
) -> None:
    path = Path(demo(tmp_path / "t.csv"))
    with path.open("a") as file:
        file.write("nonsense\n")
    assert cli.run(["flame", "--weight", weight, str(path)]) == Exit.INPUT
    assert "has no call stacks" in capsys.readouterr().err
