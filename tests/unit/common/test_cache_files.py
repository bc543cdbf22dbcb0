"""Files that one run leaves for the next: found again, and only what is the user's own is read."""

import os
from pathlib import Path

import pytest

from tracer.common import cache_files

NAME, DATA, MOST = "key.data", b"what was\nwritten", 1 << 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def read(folder: Path | None, name: str = NAME, most: int = MOST) -> bytes | None:
    return cache_files.read(folder, name, most)


def test_what_is_written_is_read(folder: Path) -> None:
    assert read(folder) is None
    cache_files.write(folder, NAME, DATA)
    assert read(folder) == DATA
    assert read(folder, "other.data") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == [NAME]
    cache_files.write(folder, NAME, b"")
    assert read(folder) == b""


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_files.VARIABLE, "")
    assert cache_files.default_folder() is None
    cache_files.write(None, NAME, DATA)
    cache_files.remove(None, NAME)
    cache_files.prune(None, ".data", 0)
    assert read(None) is None
    monkeypatch.delenv(cache_files.VARIABLE)
    assert str(cache_files.default_folder()) == cache_files.FOLDER


@pytest.mark.parametrize("what", ["folder", "file"])
def test_others_can_write_it(folder: Path, what: str) -> None:
    cache_files.write(folder, NAME, DATA)
    os.chmod(folder if what == "folder" else folder / NAME, 0o777)
    assert read(folder) is None


@pytest.mark.parametrize("what", ["folder", "file"])
def test_it_is_another_user_s(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_files.write(folder, NAME, DATA)
    path = folder if what == "folder" else folder / NAME
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read(folder) is None


def test_planted_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    cache_files.write(folder, NAME, DATA)
    (tmp_path / "link").symlink_to(folder)
    assert read(tmp_path / "link") is None
    (folder / "other.data").symlink_to(folder / NAME)
    assert read(folder, "other.data") is None
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / f"new.{os.getpid()}").symlink_to(precious)
    cache_files.write(folder, "new.data", DATA)
    assert precious.read_text() == "mine"


def test_what_was_damaged_is_not_read(folder: Path) -> None:
    cache_files.write(folder, NAME, DATA)
    whole = (folder / NAME).read_bytes()
    for at in range(len(whole)):
        for bit in (0, 4):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (folder / NAME).write_bytes(damaged)
            assert read(folder) is None
    for size in range(len(whole)):
        (folder / NAME).write_bytes(whole[:size])
        assert read(folder) is None
    (folder / NAME).write_bytes(whole)
    assert read(folder, most=len(whole)) == DATA
    assert read(folder, most=len(whole) - 1) is None


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    folder.mkdir(0o700)
    os.mkfifo(folder / NAME, 0o600)
    assert read(folder) is None


def test_what_is_removed_is_gone(folder: Path) -> None:
    cache_files.write(folder, NAME, DATA)
    cache_files.remove(folder, NAME)
    assert read(folder) is None
    cache_files.remove(folder, NAME)


def test_a_full_or_missing_disk_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_files.write(tmp_path / "not" / "there", NAME, DATA)
    (tmp_path / "file").write_text("")
    cache_files.write(tmp_path / "file", NAME, DATA)
    assert read(tmp_path / "file") is None
    folder = tmp_path / "cache"
    cache_files.write(folder, NAME, DATA)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError))
    cache_files.write(folder, NAME, b"more")
    assert read(folder) == DATA
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_the_oldest_go(folder: Path) -> None:
    for number in range(6):
        cache_files.write(folder, f"{number}.data", DATA)
        os.utime(folder / f"{number}.data", (number, number))
    cache_files.write(folder, "0.other", DATA)
    cache_files.prune(folder, ".data", 4)
    assert sorted(path.name for path in folder.iterdir()) == [
        "0.other",
        *map("{}.data".format, "2345"),
    ]
    size = (folder / "5.data").stat().st_size
    cache_files.prune(folder, ".data", 4, 3 * size - 1)
    assert sorted(path.name for path in folder.iterdir()) == ["0.other", "4.data", "5.data"]
    cache_files.prune(folder / "none", ".data", 0)


def test_drafts_of_killed_runs_go(folder: Path) -> None:
    cache_files.write(folder, NAME, DATA)
    (folder / "key.4194305").touch()  # beyond any number of a process
    (folder / "key.99999999999999999999").touch()
    (folder / f"key.{os.getppid()}").touch()
    cache_files.prune(folder, ".data", 4)
    assert {path.name for path in folder.iterdir()} == {NAME, f"key.{os.getppid()}"}
