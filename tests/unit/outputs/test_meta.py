"""FILE.meta.json: whole at any moment, and enough to read the CSV by."""

import json
import subprocess
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.unit.outputs_data import START, info
from tracer import __version__
from tracer.common.errors import TraceError
from tracer.model.result import Books
from tracer.outputs.csv import COLUMNS
from tracer.outputs.meta import MetaFile, describe


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_first_and_last_version(tmp_path: Path) -> None:
    meta = MetaFile(str(tmp_path / "t.csv"))
    path = tmp_path / "t.csv.meta.json"
    meta.start(info(ended_monotonic_ns=0))
    first = load(path)
    assert first["state"] == "running"
    assert first["books"] is None
    assert first["clock"]["ended"] is None
    books = Books(traced=523, kernel=525, lost=2, gained_by={"fault": 5})
    meta.finish(info(exit_status=3), books)
    last = load(path)
    assert last["state"] == "finished"
    assert last["lost"] == 2
    assert last["exit_status"] == 3
    assert last["books"]["balanced"] is True
    by_region = {"gained_in", "lost_in"}
    assert {field.name for field in fields(Books)} - by_region < set(last["books"])
    assert last["version"] == __version__
    assert last["columns"] == list(COLUMNS)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv.meta.json"]


def test_wall_time_can_be_computed() -> None:
    clock: Any = describe(info(), "finished")["clock"]
    assert clock["started_monotonic_ns"] == START
    assert START + clock["wall_minus_monotonic_ns"] == clock["started_wall_ns"]
    assert clock["started"] == "2023-11-14T22:13:20.000000000Z"
    assert clock["ended"] == "2023-11-14T22:13:21.234567890Z"


def test_mapped_and_resident_are_two_figures() -> None:
    books = Books(mapped=9, mapped_change=7, resident=5, resident_growth=4, resident_peak=6)
    points = {"mapped": [(START, 2), (START + 1, 9)], "resident": [(START, 1)]}
    content: Any = describe(info(**points), "finished", books)
    assert content["format"] == 2
    assert content["mapped"] == {"time_ns": [START, START + 1], "pages": [2, 9]}
    assert content["resident"] == {"time_ns": [START], "pages": [1]}
    found = {name: content["books"][name] for name in vars(books) if "mapped" in name}
    assert found == {"mapped": 9, "mapped_change": 7}
    found = {name: content["books"][name] for name in vars(books) if "resident" in name}
    assert found == {"resident": 5, "resident_growth": 4, "resident_peak": 6}


def test_hostile_words_are_escaped() -> None:
    content = describe(info(command=["x\x1b[2J", "b\udcff"], host="h\n"), "running")
    assert content["command"] == ["x\\x1b[2J", "b\\xff"]
    assert content["host"] == "h\\x0a"


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.meta.json"
    path.write_text("precious")
    with pytest.raises(TraceError, match="exists already"):
        MetaFile(str(tmp_path / "t.csv"))
    MetaFile(str(tmp_path / "t.csv"), force=True).discard()
    assert path.read_text() == "precious"
    MetaFile(str(tmp_path / "t.csv"), force=True).start(info())
    assert load(path)["state"] == "running"


def test_on_a_full_disk_there_is_room_for_the_last_version(tmp_path: Path) -> None:
    """Without the resident pages over time, which may be many; and nothing is left beside it."""
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", small], check=False)
    if done.returncode:
        pytest.skip("no rights to mount")
    try:
        meta = MetaFile(str(small / "t.csv"))
        meta.start(info())
        with suppress(OSError), (small / "t.csv").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        points = [(number, number) for number in range(9999)]
        meta.finish(info(mapped=points, resident=points), Books(traced=5))
        last = load(small / "t.csv.meta.json")
        kept = sorted(path.name for path in small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
    assert (last["state"], last["books"]["traced"]) == ("finished", 5)
    assert last["resident"] == last["mapped"] == {"time_ns": [], "pages": []}
    assert kept == ["t.csv", "t.csv.meta.json"]


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    MetaFile(str(tmp_path / "t.csv")).discard()
    assert not list(tmp_path.iterdir())


def test_with_force_an_old_one_is_replaced_in_a_shared_directory_too(tmp_path: Path) -> None:
    for mode in (0o755, 0o1777):
        tmp_path.chmod(mode)
        path = tmp_path / "t.csv.meta.json"
        path.write_text("old")
        MetaFile(str(tmp_path / "t.csv"), force=True).discard()
        assert path.read_text() == "old"
        meta = MetaFile(str(tmp_path / "t.csv"), force=True)
        assert path.read_text() == "old"
        meta.start(info())
        assert load(path)["state"] == "running"
        meta.finish(info(), Books())
        assert load(path)["state"] == "finished"
        assert list(tmp_path.iterdir()) == [path]
