"""Functions compiled at run time, by the map a program writes of them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs import perf_map
from tracer.procfs.perf_map import PerfMaps, parse_perf_map


def test_lines() -> None:
    text = b"7f00 20 py::main:/x.py\n7F20 10 LazyCompile:~f file.js:3\n7f00 30 again\nbad\n1 0 z\n"
    assert parse_perf_map(text) == {
        0x7F00: (0x7F30, "again"),
        0x7F20: (0x7F30, "LazyCompile:~f file.js:3"),
    }


def test_lines_as_hotspot_writes_them() -> None:
    text = b"0x00007f6cf1000000 0x0000000000000440 java.lang.Object java.util.HashMap.get(int)\n"
    name = "java.lang.Object java.util.HashMap.get(int)"
    assert parse_perf_map(text) == {0x7F6CF1000000: (0x7F6CF1000440, name)}


@given(st.binary(max_size=300))
def test_garbage(text: bytes) -> None:
    for start, (end, name) in parse_perf_map(text).items():
        assert end > start
        assert "\n" not in name


@pytest.fixture
def own() -> Path:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    yield path
    path.unlink(missing_ok=True)


def test_a_map_that_grows(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(perf_map.time, "monotonic", lambda: now[0])
    own.write_bytes(b"1000 10 first\n")
    maps = PerfMaps()
    assert maps.at(os.getpid(), 0x1004) == ("first", 4)
    assert maps.at(os.getpid(), 0x1010) is None
    with own.open("ab") as file:
        file.write(b"1010 10 second\n")
    assert maps.at(os.getpid(), 0x1010) is None  # it was just looked at
    now[0] += 2
    assert maps.at(os.getpid(), 0x1010) == ("second", 0)
    assert maps.at(os.getpid(), 0xFFF) is None


def test_what_another_put_there_is_not_read(own: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"1000 10 secret\n")
    own.symlink_to(secret)
    assert PerfMaps().at(os.getpid(), 0x1004) is None
    own.unlink()
    os.mkfifo(own)
    assert PerfMaps().at(os.getpid(), 0x1004) is None
    own.unlink()
    if os.geteuid() == 0:
        own.write_bytes(b"1000 10 planted\n")
        os.chown(own, 12345, 12345)
        assert PerfMaps().at(os.getpid(), 0x1004) is None


def test_a_process_that_is_gone_may_have_left_its_map() -> None:
    pid = 4_000_000  # no process has it: pid_max is lower, or nearly
    path = Path(f"/tmp/perf-{pid}.map")
    path.write_bytes(b"1000 10 left\n")
    try:
        assert PerfMaps().at(pid, 0x1004) == ("left", 4)
    finally:
        path.unlink()
    assert PerfMaps().at(pid, 0x1004) is None
