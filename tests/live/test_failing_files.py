"""Outputs that fail at some step, and disks that are full; the program as its user has it.

tests/soak/test_failing_disks.py does the same at every step of every file.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import cli, failing
from tests.live.disk import Disk, disk
from tests.live.failing import CSV, META, OLD, PAGES, STACKS, TEXT
from tracer.common.errors import Exit
from tracer.reporting import cli as report


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with disk(tmp_path_factory.mktemp("failing") / "disk") as made:
        yield made


@pytest.fixture
def steps(bad: Disk) -> Iterator[Disk]:
    """Nothing fails before a test says what, nor afterwards."""
    bad.go_on()
    yield bad
    bad.go_on()


IO, SPACE = errno.EIO, errno.ENOSPC


@pytest.mark.parametrize(
    ("operation", "name", "nth", "error"),
    [
        ("CREATE", TEXT, 1, SPACE),  # the last that is opened
        ("WRITE", CSV, 1, IO),
        ("WRITE", CSV, 3, SPACE),
        ("FSYNC", CSV, 1, IO),
        ("WRITE", STACKS, 1, SPACE),
        ("WRITE", STACKS, 3, IO),
        ("FLUSH", STACKS, 1, SPACE),
        ("WRITE", PAGES, 1, IO),
        ("WRITE", PAGES, 3, SPACE),
        ("FSYNC", PAGES, 1, IO),
        ("WRITE", TEXT, 1, SPACE),
        ("WRITE", TEXT, 5, IO),  # in the summary
        ("WRITE", META, 1, SPACE),
        ("RENAME2|RENAME", META, 1, IO),
        ("WRITE", META, 2, SPACE),  # the last version
        ("RENAME2|RENAME", META, 2, IO),
    ],
)
def test_each_file_at_some_step(
    steps: Disk, operation: str, name: str, nth: int, error: int
) -> None:
    failing.renew(steps.folder, old=False)
    steps.fail(operation, name, nth, error, once=False)
    done = failing.traced(steps.folder)
    steps.go_on()
    assert failing.check(steps.folder, done) == {name}
    assert os.strerror(error) in done.err


def test_what_is_there_stays_until_the_new_one_is_whole(steps: Disk) -> None:
    failing.renew(steps.folder, old=True)
    steps.fail("WRITE", PAGES, 2, errno.ENOSPC, once=True)
    done = failing.traced(steps.folder, "--force")
    assert failing.check(steps.folder, done, old=True) == {PAGES}
    # Nobody takes what is there for this run's.
    assert cli.meta(steps.folder / CSV)["pages_csv"] is None


@pytest.mark.parametrize(("operation", "nth"), [("CREATE", 1), ("FSYNC", 1)])
def test_a_trace_that_never_began_overwrote_nothing(steps: Disk, operation: str, nth: int) -> None:
    """--force or not: the first thing written is that the trace runs."""
    failing.renew(steps.folder, old=True)
    steps.fail(operation, META, nth, errno.EIO, once=False)
    done = failing.traced(steps.folder, "--force")
    steps.go_on()
    assert failing.check(steps.folder, done, old=True) == {META}
    assert done.out == ""


def test_all_files_at_once(steps: Disk) -> None:
    """From the first fault on; each has its line."""
    failing.renew(steps.folder, old=False)
    steps.fail("WRITE", CSV, 2, errno.EIO, once=False)
    for name in (META, STACKS, PAGES, TEXT):
        steps.fail("WRITE", name, 2, errno.EIO, once=False)
    done = failing.traced(steps.folder)
    steps.go_on()
    assert failing.check(steps.folder, done) == {CSV, META, STACKS, PAGES, TEXT}
    assert cli.meta(steps.folder / CSV)["state"] == "running"


def test_attached_the_trace_ends(steps: Disk) -> None:
    """The process that was traced runs on, and the summary has what was traced until then."""
    failing.renew(steps.folder, old=False)
    steps.fail("WRITE", CSV, 2, errno.ENOSPC, once=False)
    with subprocess.Popen(cli.python(cli.TOUCHING)) as target:
        with cli.nothing_left_attached():
            done = cli.run("--pid", target.pid, "--csv", steps.folder / CSV, "-q")
        assert target.poll() is None
        target.kill()
    assert done.status == Exit.OUTPUT
    assert failing.failed(done) == {CSV}
    assert "books: " in done.out
    meta = cli.meta(steps.folder / CSV)
    assert meta["state"] == "failed"
    assert "No space left on device" in str(meta["notes"])


@pytest.mark.parametrize("how", ["size=4k", "size=24k", "size=64k", "nr_inodes=4", "nr_inodes=6"])
def test_a_full_disk(tmp_path: Path, how: str) -> None:
    """Of some pages; of some files."""
    small = tmp_path / "small"
    failing.full_disk(small, how)
    try:
        done = failing.traced(small)
        assert failing.check(small, done)
        assert "No space left on device; free some space" in done.err
    finally:
        subprocess.run(["umount", small], check=True)


# -- pagefault-report ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    assert failing.traced(folder).status == 0
    return folder / CSV


REPORTS = {
    "html": ("out.html", "html"),
    "png": ("out.png", "plot"),
    "svg": ("out.svg", "plot"),
    "flame": ("out.svg", "flame"),
    "perfetto": ("out.pftrace", "export", "--perfetto"),
    "chrome": ("out.json", "export", "--chrome"),
    "folded": ("out.folded", "export", "--folded"),
    "speedscope": ("out.json", "export", "--speedscope"),
}


SLOW = ("html", "png", "svg")  # seconds each


@pytest.mark.parametrize(
    ("kind", "old"), [(kind, old) for kind in REPORTS for old in (False, True)[kind in SLOW :]]
)
def test_reports(
    steps: Disk, recorded: Path, capsys: pytest.CaptureFixture[str], kind: str, old: bool
) -> None:
    """At the first write, the last, and each step after; and all is well where nothing fails."""
    name, *words = REPORTS[kind]
    path = steps.folder / name

    def renew() -> None:
        for each in steps.folder.iterdir():
            each.unlink()
        if old:
            path.write_text(OLD)
        steps.asked()

    def made() -> int:
        return report.run([*words, str(recorded), "-o", str(path), *["--force"] * old])

    renew()
    assert made() == 0
    assert path.read_bytes() not in (b"", OLD.encode())
    assert os.listdir(steps.folder) == [name]
    writes = sum(each.operation == "WRITE" for each in steps.asked())
    cases = [("CREATE", 1), ("WRITE", 1), ("WRITE", writes), ("FSYNC", 1), ("FLUSH", 1)]
    if kind in SLOW:
        cases = [("WRITE", writes), ("FSYNC", 1)]
    for operation, nth in [*cases, *[("RENAME2|RENAME", 1)] * old]:
        capsys.readouterr()
        for error in (errno.EIO, errno.ENOSPC)[: 1 + (operation == "WRITE")]:
            renew()
            steps.fail(operation, name, nth, error, once=False)
            assert made() == Exit.OUTPUT, (operation, nth)
            steps.go_on()
            message = capsys.readouterr().err
            assert message.count("\n") == 1
            assert message.startswith("pagefault-report: cannot ")
            assert f"{path}: {os.strerror(error)}; " in message
            assert os.listdir(steps.folder) == [name] * old, (operation, nth)
            assert not old or path.read_text() == OLD


def test_a_half_written_report_that_cannot_be_removed_is_named(
    steps: Disk, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = steps.folder / "half.folded"
    steps.fail("WRITE|UNLINK", path.name, 1, errno.EIO, once=False)
    assert report.run(["export", "--folded", str(recorded), "-o", str(path)]) == Exit.OUTPUT
    first, second = capsys.readouterr().err.splitlines()
    assert f"cannot remove {path}: Input/output error; remove it: it is incomplete" in first
    assert f"cannot write {path}: Input/output error; " in second
