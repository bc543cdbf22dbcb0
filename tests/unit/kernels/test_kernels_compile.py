"""Compiling on the host for a guest: tests/kernels/compile.py."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.kernels import compile as compiling
from tests.kernels.boot import ROOT
from tracer.common import cache_files
from tracer.probes import cache
from tracer.probes.compiled import Answer, Function, MapSpec, encode

ANSWER = Answer(
    bcc_version="1",
    maps=[MapSpec("settings", 2, 4, 56, 1, 0)],
    functions=[Function("hook", bytes(range(16)), [(0, "settings")])],
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_files.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def asked(folder: Path) -> Path:
    (folder / compiling.WANTED).write_text(json.dumps({"key": [["-DPROBE_PERF"], 0]}))
    return folder


def test_what_the_host_makes_is_found_in_the_guest(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: Sequence[str], **_: object) -> None:
        made = {key: encode(ANSWER) for key in json.loads((tmp_path / "wanted.json").read_text())}
        compiling._write(Path(command[-1]) / compiling.MADE, json.dumps(made))  # whole, or not yet

    monkeypatch.setattr(subprocess, "run", run)
    server = Thread(target=compiling.serve, args=(tmp_path, ROOT, Event()))
    server.start()
    compiling.receive(asked(tmp_path))
    server.join()
    assert cache.load(kept, "key") == replace(ANSWER, cached="key")


def test_where_the_host_cannot_the_guest_does_not_wait(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    compiling.serve(asked(tmp_path), ROOT, Event())
    compiling.receive(tmp_path)
    assert cache.load(kept, "key") is None


def test_a_guest_that_ends_without_asking(tmp_path: Path) -> None:
    ended = Event()
    ended.set()
    compiling.serve(tmp_path, ROOT, ended)
    compiling.receive(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_of_an_earlier_run_is_left(tmp_path: Path) -> None:
    (asked(tmp_path) / compiling.MADE).write_text("{}")
    compiling.clear(tmp_path)
    assert not list(tmp_path.iterdir())
