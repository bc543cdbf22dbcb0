"""Compiled probes on disk: found again, and what has another shape is compiled anew."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tracer.common import cache_files
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
    assert [path.name for path in folder.iterdir()] == ["key.json"]


def test_without_a_folder() -> None:
    cache.store(None, "key", ANSWER)
    assert cache.load(None, "key") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"maps": 3}', b"\xff", b'{"x": 1}'])
def test_what_we_did_not_write_is_compiled_anew(folder: Path, content: bytes) -> None:
    cache.store(folder, "key", ANSWER)
    (folder / "key.json").write_bytes(content)
    assert cache.load(folder, "key") is None
    cache_files.write(folder, "key.json", content)
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
    cache.drop(None, "key")


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
