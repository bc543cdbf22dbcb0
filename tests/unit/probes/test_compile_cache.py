"""Compiled probes on disk: found again, and only what is the user's own is trusted."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tracer.probes import cache
from tracer.probes.compiled import Answer, Function, MapSpec, decode, encode

ANSWER = Answer(
    "0.26", "/bcc", "", [], [MapSpec("m", 1, 4, 8, 9, 0)], [Function("f", b"\0" * 8, [(0, "m")])]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_what_is_stored_is_found(folder: Path) -> None:
    assert cache.load(folder, "key") is None
    cache.store(folder, "key", ANSWER)
    assert cache.load(folder, "key") == replace(ANSWER, cached="key")
    assert cache.load(folder, "other") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["key.json"]


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "")
    assert cache.default_folder() is None
    cache.store(None, "key", ANSWER)
    assert cache.load(None, "key") is None
    monkeypatch.delenv(cache.VARIABLE)
    assert str(cache.default_folder()) == cache.FOLDER


@pytest.mark.parametrize("what", ["folder", "file"])
def test_others_can_write_it(folder: Path, what: str) -> None:
    cache.store(folder, "key", ANSWER)
    os.chmod(folder if what == "folder" else folder / "key.json", 0o777)
    assert cache.load(folder, "key") is None


def test_planted_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    cache.store(folder, "key", ANSWER)
    (tmp_path / "link").symlink_to(folder)
    assert cache.load(tmp_path / "link", "key") is None
    (folder / "other.json").symlink_to(folder / "key.json")
    assert cache.load(folder, "other") is None
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / f"new.{os.getpid()}").symlink_to(precious)
    cache.store(folder, "new", ANSWER)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"maps": 3}', b"\xff", b'{"x": 1}'])
def test_what_we_did_not_write_is_compiled_anew(folder: Path, content: bytes) -> None:
    cache.store(folder, "key", ANSWER)
    (folder / "key.json").write_bytes(content)
    assert cache.load(folder, "key") is None


def test_what_was_damaged_is_compiled_anew(folder: Path) -> None:
    """Each bit counts: most of them are of code, and decode as well as before."""
    cache.store(folder, "key", ANSWER)
    whole = (folder / "key.json").read_bytes()
    for at in range(len(whole)):
        for bit in (0, 4):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (folder / "key.json").write_bytes(damaged)
            assert cache.load(folder, "key") is None
    for size in range(0, len(whole), 7):
        (folder / "key.json").write_bytes(whole[:size])
        assert cache.load(folder, "key") is None


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    folder.mkdir(0o700)
    os.mkfifo(folder / "key.json", 0o600)
    assert cache.load(folder, "key") is None


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("maps", 3), ("maps", [["m"]]), ("btf_ids", []), ("probe", None), ("more", 1)),
        ("functions", [{"name": "f", "code": "AA==", "maps": []}]),
        ("functions", [{"name": "f", "code": "@", "maps": [[0, "m"]]}]),
        ("functions", [{"name": "f", "code": "AAAAAAAAAAA=", "maps": [[1, "m"]]}]),
        ("functions", [{"name": "f", "code": "AAAAAAAAAAA=", "maps": [[0, "n"]]}]),
        ("functions", [{"name": "f", "code": "AAAAAAAAAAA=", "maps": [["0", "m"]]}]),
        ("maps", [dict(asdict(ANSWER.maps[0]), kind="1")]),
    ],
)
def test_what_has_another_shape_is_refused(member: str, value: object) -> None:
    """As another version of this program may have written it."""
    plain = json.loads(encode(ANSWER))
    assert decode(json.loads(encode(ANSWER))) == ANSWER
    plain[member] = value
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(plain)


def test_what_is_dropped_is_gone(folder: Path) -> None:
    cache.store(folder, "key", ANSWER)
    cache.drop(folder, "key")
    assert cache.load(folder, "key") is None
    cache.drop(folder, "key")
    cache.drop(None, "key")


def test_drafts_of_killed_runs_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(folder, "key", ANSWER)
    (folder / "key.4194305").touch()  # beyond any number of a process
    (folder / f"key.{os.getppid()}").touch()
    cache.store(folder, "other", ANSWER)
    kept = {"key.json", "other.json", f"key.{os.getppid()}"}
    assert {path.name for path in folder.iterdir()} == kept
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError))
    cache.store(folder, "third", ANSWER)
    assert {path.name for path in folder.iterdir()} == kept


def test_a_full_or_missing_disk_is_no_error(tmp_path: Path) -> None:
    cache.store(tmp_path / "not" / "there", "key", ANSWER)
    (tmp_path / "file").write_text("")
    cache.store(tmp_path / "file", "key", ANSWER)
    assert cache.load(tmp_path / "file", "key") is None


def test_old_ones_go(folder: Path) -> None:
    for number in range(40):
        cache.store(folder, f"{number}", ANSWER)
        os.utime(folder / f"{number}.json", (number, number))
    assert len(list(folder.iterdir())) <= 33
    assert cache.load(folder, "39") is not None
    assert cache.load(folder, "0") is None


def test_the_key_stands_for_sources_and_words(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int x;")
    first = cache.key_of(tmp_path, ["-DA=1", "0.26"])
    assert first == cache.key_of(tmp_path, ["-DA=1", "0.26"])
    assert first != cache.key_of(tmp_path, ["-DA=2", "0.26"])
    assert first != cache.key_of(tmp_path, ["-DA=1", "0.37"])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.h").write_text("")
    assert first != cache.key_of(tmp_path, ["-DA=1", "0.26"])
