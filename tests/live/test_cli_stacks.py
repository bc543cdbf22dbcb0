"""`--stacks` from the command line: column, FILE.stacks.csv, summary, and what is refused."""

import csv
import json
from pathlib import Path

import pytest

from tests.live.cli import run
from tests.live.workload import BINARY
from tracer.common.errors import Exit

N = 37


def test_the_files_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    done = run("--stacks", "--csv", path, "--", BINARY, "stacks", N, stdin="go\nend\n")
    assert done.status == 0, done.err
    meta = json.loads(Path(f"{path}.meta.json").read_text())
    assert meta["stacks"] == "faults.csv.stacks.csv"
    with path.open(newline="") as file:
        faults = list(csv.DictReader(file))
    with Path(f"{path}.stacks.csv").open(newline="") as file:
        frames = list(csv.DictReader(file))
    assert meta["columns"][-1] == "stack"
    known = {frame["stack"] for frame in frames}
    assert {fault["stack"] for fault in faults} - {""} <= known
    first = {frame["stack"]: frame["function"] for frame in frames if frame["frame"] == "0"}
    assert [first.get(fault["stack"]) for fault in faults].count("stack_writes") == N
    assert "stack_writes ← stack_middle ← stack_outer" in done.out
    modules = {frame["module"]: frame["build_id"] for frame in frames}
    assert modules[str(BINARY)]


def test_a_stream_has_no_file_beside_it() -> None:
    done = run("--stacks", "--csv", "-", "--", "true")
    assert done.status == Exit.TRACER_FAILED
    assert "FILE.stacks.csv" in done.err


@pytest.mark.parametrize("name", ["faults.csv.stacks.csv"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine\n")
    done = run("--stacks", "--csv", tmp_path / "faults.csv", "--", "true")
    assert done.status == Exit.TRACER_FAILED
    assert "exists already" in done.err
    assert (tmp_path / name).read_text() == "mine\n"
    assert not (tmp_path / "faults.csv").exists()


def test_without_a_csv_the_summary_reports() -> None:
    done = run("--stacks", "-q", "--", BINARY, "stacks", N, stdin="go\nend\n")
    assert done.status == 0, done.err
    assert "stack_writes ← stack_middle ← stack_outer" in done.out
