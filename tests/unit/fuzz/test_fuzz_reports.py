"""Damaged files of a trace: a report all the same, or one line that says what is wrong."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests.unit.fuzz.mutation import EDGES, edited, every
from tests.unit.report_data import MARKUP, lossy, stacked
from tracer.common.errors import Exit
from tracer.reporting import cli

SUFFIXES = {"csv": "", "pages": ".pages.csv", "stacks": ".stacks.csv", "meta": ".meta.json"}
WORDS = [
    *(str(edge).encode() for edge in EDGES),
    *(hex(edge).encode() for edge in EDGES),
    *(b"", b"-1", b"-9223372036854775808", b"18446744073709551616", b"1e400", b"NaN", b"0x"),
    *(b"9" * 39, b"9" * 41, b"9" * 5000, b"0x" + b"f" * 5000, b"\0", b"\xff", b"\xed\xa0\x80"),
    *("\u202e\x1b[2J".encode(), b'"', b'""', b"'", b"true", b"false", b"null", b"[]", b"{}"),
    *(b"[" * 500, b'{"a":' * 500, b"1.5", b"-0", b"Infinity", b'"\\ud800"', b"\xef\xbb\xbf"),
    *(b"huge", b"hugetlb", b"file", b"anon", b"around", b"initial", b"fault", b"migrate"),
    *(b"kernel", b"user", b"truncated", b"copy dropped", b"..", b"/", b"/dev/null"),
    *(name.encode() for name in MARKUP),
]  # fmt: skip


class Trace:
    """The files of a trace, whole, and in a folder where one or two of them are damaged."""

    def __init__(self, folder: Path, whole: str) -> None:
        self.path = folder / Path(whole).name
        self.files = {
            kind: Path(whole + suffix).read_bytes()
            for kind, suffix in SUFFIXES.items()
            if Path(whole + suffix).exists()
        }
        shutil.copytree(Path(whole).parent, folder, dirs_exist_ok=True)

    def damage(self, random: Random, kinds: Sequence[str]) -> None:
        for kind, content in self.files.items():
            new = edited(random, content, WORDS) if kind in kinds else content
            Path(str(self.path) + SUFFIXES[kind]).write_bytes(new)


@pytest.fixture(params=[stacked, lossy], ids=["stacked", "lossy"])
def trace(request: pytest.FixtureRequest, tmp_path: Path) -> Trace:
    (tmp_path / "whole").mkdir()
    return Trace(tmp_path / "damaged", request.param(tmp_path / "whole" / "t.csv"))


def reported(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> int:
    """The status of a report; where it is refused, that takes one line."""
    capsys.readouterr()
    status = cli.run(arguments)
    out, errors = capsys.readouterr()
    assert status in (Exit.OK, Exit.INPUT), errors
    if status == Exit.INPUT:
        assert errors.count("\n") == 1
        assert errors[:-1].isprintable()
        assert len(errors) < 2000
    else:
        assert errors == ""
        assert "\x1b" not in out
        assert "\0" not in out
    return status


@pytest.mark.parametrize("kind", SUFFIXES)
def test_summaries(kind: str, trace: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    if kind not in trace.files:
        pytest.skip("this trace has no such file")
    trace.damage(Random(0), [])
    assert reported(capsys, ["summary", str(trace.path)]) == Exit.OK

    def check(random: Random) -> None:
        trace.damage(random, [kind])
        reported(capsys, ["summary", str(trace.path)])

    every(f"summary {kind} {len(trace.files)}", 20, check)


COMMANDS = {
    "flame": (["flame"], 10),
    "resident": (["flame", "--weight", "resident"], 10),
    "time": (["flame", "--weight", "time"], 10),
    "perfetto": (["export", "--perfetto"], 10),
    "chrome": (["export", "--chrome"], 10),
    "folded": (["export", "--folded"], 10),
    "speedscope": (["export", "--speedscope"], 10),
    "html": (["html"], 2),
    "plot": (["plot"], 1),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_pictures_and_exports(
    command: str, trace: Trace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments, count = COMMANDS[command]
    output = str(tmp_path / ("out.png" if command == "plot" else "out"))

    def check(random: Random) -> None:
        trace.damage(random, random.sample(list(SUFFIXES), random.choice([1, 1, 2])))
        reported(capsys, [*arguments, str(trace.path), "-o", output, "--force"])

    every(f"{command} {len(trace.files)}", count, check)


def test_differences(trace: Trace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = str(tmp_path / "whole" / trace.path.name)

    def check(random: Random) -> None:
        trace.damage(random, random.sample(list(SUFFIXES), random.choice([1, 1, 2])))
        both = [str(trace.path), whole]
        random.shuffle(both)
        reported(capsys, ["diff", *both])

    every(f"diff {len(trace.files)}", 10, check)


# -- what failed once ---------------------------------------------------------------------------


def with_cell(path: Path, column: str, cell: str) -> None:
    """A CSV file with one of its last row's cells replaced."""
    header, *lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[header.split(",").index(column)] = cell
    path.write_text("\n".join([header, *lines[:-1], ",".join(cells)]) + "\n")


@pytest.mark.parametrize("cell", ["9" * 5000, "0x" + "f" * 5000])
@pytest.mark.parametrize(
    ("kind", "column"),
    [("csv", "address"), ("pages", "gains"), ("stacks", "line")],
)
def test_a_number_of_thousands_of_digits(
    kind: str, column: str, cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To say which line is wrong it was converted, which Python refuses."""
    path = stacked(tmp_path / "t.csv")
    with_cell(Path(path + SUFFIXES[kind]), column, cell)
    assert cli.run(["summary", path]) == Exit.INPUT
    errors = capsys.readouterr().err
    assert f"column '{column}'" in errors
    assert "out of range" in errors
    assert errors.count("\n") == 1
    assert len(errors) < 500


@pytest.mark.parametrize(
    ("kind", "column", "cell"),
    [
        ("csv", "time_ns", str(1 << 62)),
        *(("pages", "first_time_ns", str(time)) for time in (-1, 1 << 62)),
        *(("pages", "last_time_ns", str(time)) for time in (-2, 1 << 62)),
    ],
)
@pytest.mark.parametrize("command", [["summary"], ["export", "--perfetto"]])
def test_times_of_no_clock(
    command: list[str],
    kind: str,
    column: str,
    cell: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They do not fit where a difference of times is worked out, or where Perfetto has them."""
    path = stacked(tmp_path / "t.csv")
    with_cell(Path(path + SUFFIXES[kind]), column, cell)
    output = [] if command == ["summary"] else ["-o", str(tmp_path / "out")]
    assert cli.run([*command, path, *output]) == Exit.INPUT
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "line " in errors
    assert "a time " in errors


@pytest.mark.parametrize("number", [-1, (1 << 63) - 1])
def test_a_meta_file_of_no_clock(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says of times and pages is as if it did not say it: a negative one ended a report."""
    path = lossy(tmp_path / "t.csv")
    meta = Path(path + SUFFIXES["meta"])
    content = json.loads(meta.read_text())
    for name in content["clock"]:
        if name.endswith("_ns"):
            content["clock"][name] = number
    content["mapped"] = {"time_ns": [0, 1, number], "pages": [1, number, 2]}
    meta.write_text(json.dumps(content))
    for arguments in (["summary"], ["diff", path], ["export", "--perfetto"]):
        output = [] if arguments[0] in ("summary", "diff") else ["-o", str(tmp_path / "o")]
        output += ["--force"] if output else []
        assert reported(capsys, [*arguments, path, *output]) == Exit.OK
