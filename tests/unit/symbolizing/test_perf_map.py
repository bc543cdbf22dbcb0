"""Functions compiled at run time, by the map a program writes of them."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.answering import Here
from tracer.symbolizing import perf_map, perf_maps, server
from tracer.symbolizing.history import NEVER, Change, Period, dumps
from tracer.symbolizing.perf_map import PerfMap
from tracer.symbolizing.perf_maps import PerfMaps

PID = 4_000_000  # no process has it: pid_max is lower, or nearly


def changes(known: PerfMap, *addresses: int, after: int = -1) -> list[list[Change] | None]:
    return known.changes(np.array(addresses, np.uint64), after)


def last(known: PerfMap, address: int) -> tuple[str, int] | None:
    """(name, bytes into it) of the function that was recorded last at an address."""
    if not 0 <= address < 1 << 64:
        return None
    (found,) = changes(known, address)
    return found[-1][1:] if found and found[-1][1] else None


def test_lines() -> None:
    text = b"7f00 20 py::main:/x.py\n7F20 10 LazyCompile:~f file.js:3\n7f00 30 again\nbad\n1 0 z\n"
    found = PerfMap()
    found.add(text)
    assert [last(found, at) for at in (0x7EFF, 0x7F00, 0x7F2F, 0x7F30, 1)] == [
        *(None, ("again", 0), ("again", 0x2F), None, None),
    ]
    assert found.size == len(text)


def test_lines_as_hotspot_writes_them() -> None:
    text = b"0x00007f6cf1000000 0x0000000000000440 java.lang.Object java.util.HashMap.get(int)\n"
    name = "java.lang.Object java.util.HashMap.get(int)"
    found = PerfMap()
    found.add(text)
    assert last(found, 0x7F6CF100043F) == (name, 0x43F)


def test_what_was_there_when() -> None:
    """By the check that found a whole line first."""
    known = PerfMap()
    lines = [b"1000 10 first\n", b"1008 20 second\n", b"1000 4 third\n"]
    known.add(b"".join(lines[:2]), [(1, len(lines[0])), (2, len(lines[0]) + 4), (3, 999)])
    known.add(lines[2], [(4, 999)])
    assert changes(known, 0x1000, 0x1008, 0x1028, 0xFFF) == [
        [(1, "first", 0), (4, "third", 0)],
        [(1, "first", 8), (3, "second", 0)],
        *(None, None),
    ]
    assert changes(known, 0x1000, 0x1008, after=3) == [[(4, "third", 0)], None]


def test_a_file_that_is_written_anew(tmp_path: Path) -> None:
    """What is not in it any more has gone; the rest has been there all the time."""
    path, known = tmp_path / "map", PerfMap()

    def read(number: int, text: bytes) -> None:
        path.write_bytes(text)
        with path.open("rb") as file:
            known.read(file.fileno(), [(number, len(text))])

    read(1, b"0x1000 0x10 stays\n0x2000 0x10 goes\n0x3000 0x10 old\n")
    read(2, b"0x1000 0x10 stays\n0x3000 0x10 new\n0x4000 0x10 comes\n0x5000 0x10 comes\n")
    assert known.dumped
    assert changes(known, 0x1000, 0x2000, 0x3000, 0x4000) == [
        [(1, "stays", 0)],
        [(1, "goes", 0), (2, "", 0)],
        [(1, "old", 0), (2, "", 0), (2, "new", 0)],
        [(2, "comes", 0)],
    ]
    read(3, b"0x1000 0x10 stays\n")
    read(4, b"0x1000 0x10 stays\n0x2000 0x10 goes\n")
    assert changes(known, 0x1000, 0x2000) == [
        [(1, "stays", 0)],
        [(1, "goes", 0), (2, "", 0), (4, "goes", 0)],
    ]


def test_checks_in_the_course_of_one_dump() -> None:
    """The first may list what was always there; the next what came since."""
    second = 1_000_000_000
    each = [Period(5, 6), Period(6, 7), Period(7, 2 * second), Period(8, 2 * second + 9)]
    assert dumps(each) == [Period(NEVER, 7)] * 2 + [Period(7, 2 * second + 9)] * 2
    assert dumps([]) == []


def test_a_history_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not said what came last of it, since not all of it is kept."""
    monkeypatch.setattr(perf_map, "_MOST_CHANGES", 2)
    known = PerfMap()
    for number in range(1, 4):
        known.add(b"1000 10 f%d\n" % number, [(number, 99)])
        assert last(known, 0x1000) == ((f"f{number}", 0) if number < 3 else None)
    assert changes(known, 0x1000) == [[(3, "", 0)]]


@given(st.binary(max_size=300))
def test_garbage(text: bytes) -> None:
    found = PerfMap()
    found.add(text)
    found.add(text)
    assert found.size == 2 * len(text)
    for start in found._starts.tolist():
        name, into = last(found, start) or ("none that begins at the last address", 0)
        assert "\n" not in name
        assert into >= 0


class Process:
    """A process as procfs shows it, with a root and a folder for its map."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.root = folder / "root"
        (self.root / "maps").mkdir(parents=True)
        (self.proc / str(PID)).mkdir(parents=True)
        (self.proc / str(PID) / "root").symlink_to(self.root)
        self.write_status()

    def write_status(self, own: int = PID, user: int | None = None) -> None:
        """The number it has in its own namespace, and its user."""
        user = os.geteuid() if user is None else user
        text = f"Name:\tx\nUid:\t77\t{user}\t77\t77\nNSpid:\t{PID}\t{own}\n"
        (self.proc / str(PID) / "status").write_text(text)

    @property
    def map(self) -> Path:
        return self.root / "maps" / f"perf-{PID}.map"

    def maps(self, asked: Here | None = None) -> PerfMaps:
        return PerfMaps(asked or Here(), str(self.proc), "/maps")

    def end(self) -> None:
        shutil.rmtree(self.proc / str(PID))


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be changed."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def own() -> Iterator[Path]:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    yield path
    path.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_of_a_process_in_our_namespace(own: Path) -> None:
    own.write_bytes(b"1000 10 mine\n")
    assert PerfMaps(Here()).at(os.getpid(), 0x1004) == ("mine", 4)


def test_a_map_that_grows(process: Process, now: list[float]) -> None:
    """Only what was appended is read; a line that is not whole yet is left."""
    process.map.write_bytes(b"1000 10 first\n1020 10 hal")
    maps = process.maps()
    assert maps.at(PID, 0x1004) == ("first", 4)
    assert maps.at(PID, 0x1010) is None
    append(process.map, "f\n1010 10 second\n")
    assert maps.at(PID, 0x1010) is None  # the map was read just now
    now[0] += 1
    assert maps.at(PID, 0x1010) == ("second", 0)
    assert maps.at(PID, 0x1020) == ("half", 0)
    assert maps.at(PID, 0xFFF) is None
    assert maps._maps[PID].state[0] == process.map.stat().st_size


def test_what_was_written_last_of_an_address_holds(process: Process, now: list[float]) -> None:
    """Code is thrown away, and other made in its place: nothing else says so."""
    process.map.write_bytes(b"1000 10 first\n1800 100 inner\n1400 1000 large\n1000 20 again\n")
    maps = process.maps()
    assert maps.at(PID, 0x1004) == ("again", 4)
    assert maps.at(PID, 0x1810) == ("large", 0x410)
    append(process.map, "1800 10 last\n")
    now[0] += 1
    assert maps.at(PID, 0x1808) == ("last", 8)
    assert maps.at(PID, 0x1810) == ("large", 0x410)


def test_a_map_that_is_begun_anew(process: Process, now: list[float]) -> None:
    process.map.write_bytes(b"1000 10 first\n2000 10 second\n")
    maps = process.maps()
    assert maps.at(PID, 0x2000) == ("second", 0)
    process.map.write_bytes(b"3000 10 cut\n")
    now[0] += 1
    assert maps.at(PID, 0x3000) == ("cut", 0)
    assert maps.at(PID, 0x2000) is None
    process.map.unlink()
    process.map.write_bytes(b"3000 10 another, and a longer one\n4000 10 file\n")
    now[0] += 1
    assert maps.at(PID, 0x4000) == ("file", 0)


def test_a_process_that_has_ended_is_read_once_more(process: Process, now: list[float]) -> None:
    (process.proc / "self").mkdir()
    maps = PerfMaps(Here(), str(process.proc), str(process.map.parent))
    (process.proc / str(PID) / "root").unlink()
    (process.proc / str(PID) / "root").symlink_to("/")
    process.map.write_bytes(b"1000 10 first\n")
    assert maps.at(PID, 0x2000) is None
    append(process.map, "2000 10 last")
    process.end()
    assert not maps.ended(PID, 0x2000)
    assert maps.at(PID, 0x2000) == ("last", 0)
    assert maps.at(PID, 0x3000) is None
    assert maps.ended(PID, 0x3000)
    append(process.map, "\n3000 10 later\n")
    now[0] += 9
    assert maps.at(PID, 0x3000) is None


def test_a_number_used_again_is_no_news_of_who_ended(process: Process) -> None:
    maps = PerfMaps(Here(), str(process.proc), str(process.map.parent))
    (process.proc / str(PID) / "root").unlink()
    (process.proc / str(PID) / "root").symlink_to("/")
    process.map.write_bytes(b"1000 10 first\n")
    assert maps.at(PID, 0x1000) == ("first", 0)
    process.end()
    process.map.rename(process.map.with_suffix(".old"))  # its inode is not used again
    process.map.write_bytes(b"1000 10 other\n2000 10 other\n")
    assert maps.at(PID, 0x2000) is None
    assert maps.at(PID, 0x1000) == ("first", 0)


def test_in_a_container(process: Process, tmp_path: Path) -> None:
    """It has another number there, which is another's here; its links stay below its root."""
    process.write_status(own=7)
    maps = PerfMaps(Here(), str(process.proc), str(tmp_path))
    (tmp_path / f"perf-{PID}.map").write_bytes(b"1000 10 not_its\n")
    (tmp_path / "perf-7.map").write_bytes(b"1000 10 nor_this\n")
    assert maps.at(PID, 0x1000) is None
    (process.root / "real").mkdir()
    (process.root / "real" / "perf-7.map").write_bytes(b"1000 10 its\n")
    (process.root / "tmp").symlink_to("/real")
    assert PerfMaps(Here(), str(process.proc), "/tmp").at(PID, 0x1000) == ("its", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize(("owner", "believed"), [(12345, True), (0, True), (54321, False)])
def test_whose_map_it_is(process: Process, owner: int, believed: bool) -> None:
    """The user's whom the process runs as, or root's."""
    process.write_status(user=12345)
    process.map.write_bytes(b"1000 10 found\n")
    os.chown(process.map, owner, owner)
    maps = process.maps()
    assert maps.at(PID, 0x1000) == (("found", 0) if believed else None)


def test_a_map_of_an_earlier_process(process: Process) -> None:
    """It was written before this one started."""
    process.map.write_bytes(b"1000 10 found\n")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for started, believed in ((now + 5, False), (now - 5, True)):
        ticks = int(started * os.sysconf("SC_CLK_TCK"))
        fields = ["S", *["0"] * 18, str(ticks), "0"]
        (process.proc / str(PID) / "stat").write_text(f"{PID} (a) b) {' '.join(fields)}\n")
        assert process.maps().at(PID, 0x1000) == (("found", 0) if believed else None)


def test_a_map_is_watched(process: Process) -> None:
    """When it came to be is known, though nobody asked in the meantime."""
    maps = process.maps()
    maps.watch([PID])
    process.map.write_bytes(b"1000 10 first\n")
    until_s = time.monotonic() + 60
    seen: list[Period] = []
    for number in (1, 2):
        while len(seen) < number and time.monotonic() < until_s:
            time.sleep(0.01)
            seen = list(maps.periods(PID))
        append(process.map, f"1000 10 f{number}\n")
    began = time.monotonic_ns()
    maps.close()
    assert all(NEVER <= each.before_ns < each.by_ns < began for each in seen)
    assert seen[0].by_ns <= seen[1].by_ns


def test_it_is_read_so_often(
    process: Process, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_maps, "_MOST_CHECKS", 3)
    maps = process.maps()
    process.map.write_bytes(b"")
    for at in range(1, 5):
        append(process.map, f"{at}000 10 f{at}\n")
        now[0] += 1
        assert maps.at(PID, at * 0x1000) == ((f"f{at}", 0) if at < 4 else None)


def test_so_much_is_kept(
    process: Process, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_map, "_MOST_FUNCTIONS", 2)
    maps = process.maps()
    process.map.write_bytes(b"1000 10 a\n2000 10 b\n")
    assert [maps.at(PID, at) for at in (0x1000, 0x2000)] == [("a", 0), ("b", 0)]
    append(process.map, "3000 10 c\n")  # which might as well be at 1000
    now[0] += 1
    assert maps.at(PID, 0x3000) is None
    assert maps.failed == {PID: "it is too large"}
    assert maps.known_until(PID) < time.monotonic_ns()
    assert maps.at(PID, 0x1000) == ("a", 0)
    process.map.write_bytes(b"1000 10 a\n")
    monkeypatch.setattr(perf_map, "_MOST_BYTES", 10)
    asked = Here()
    maps = process.maps(asked)
    assert maps.at(PID, 0x1000) == ("a", 0)
    monkeypatch.setattr(server, "_MOST_BYTES", 5)
    for number in range(PID + 1, PID + 4):
        (process.proc / str(number)).symlink_to(str(PID))
        assert maps.at(number, 0x1000) == ("a", 0)
    assert list(asked.server._maps) == [PID + 3]


def test_what_another_put_there_is_not_read(own: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"1000 10 secret\n")
    own.symlink_to(secret)
    assert PerfMaps(Here()).at(os.getpid(), 0x1004) is None
    own.unlink()
    os.mkfifo(own)
    assert PerfMaps(Here()).at(os.getpid(), 0x1004) is None
    own.unlink()
    if os.geteuid() == 0:
        own.write_bytes(b"1000 10 planted\n")
        os.chown(own, 12345, 12345)
        assert PerfMaps(Here()).at(os.getpid(), 0x1004) is None


def test_a_process_that_is_gone_may_have_left_its_map() -> None:
    """Whose user and start are not known: root's or ours, then, and written since we run."""
    path = Path(f"/tmp/perf-{PID}.map")
    path.write_bytes(b"1000 10 left\n")
    try:
        assert PerfMaps(Here()).at(PID, 0x1004) == ("left", 4)
        os.utime(path, (0, time.time() - 9))
        assert PerfMaps(Here()).at(PID, 0x1004) is None
        os.utime(path)
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
            assert PerfMaps(Here()).at(PID, 0x1004) is None
    finally:
        path.unlink()
    assert PerfMaps(Here()).at(PID, 0x1004) is None
