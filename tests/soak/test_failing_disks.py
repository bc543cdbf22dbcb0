"""Every step of every output made to fail, one after another; disks of every size.

tests/live/test_failing_files.py has a few of each. A failure is that of this file from there on,
of one step alone, or of the whole disk.
"""

import errno
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import failing
from tests.live.disk import Asked, Disk, disk
from tests.live.failing import META

OPERATIONS = ("CREATE", "OPEN", "WRITE", "FSYNC", "FLUSH", "RENAME2", "SETATTR", "UNLINK")
PAGES = 40  # of a disk on which there is room for all


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk") as made:
        yield made


def steps(bad: Disk, *more: str, old: bool) -> Counter[Asked]:
    """How often each step is done where nothing fails."""
    failing.renew(bad.folder, old=old)
    bad.asked()
    done = failing.traced(bad.folder, *more)
    assert failing.check(bad.folder, done, old=old) == set()
    return Counter(each for each in bad.asked() if each.operation in OPERATIONS)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_every_step_of_every_file(bad: Disk, error: int, once: bool, old: bool) -> None:
    more = ("--force",) * old
    for asked, count in steps(bad, *more, old=old).items():
        for nth in range(1, count + 1):
            failing.renew(bad.folder, old=old)
            bad.fail(asked.operation, asked.name, nth, error, once=once)
            done = failing.traced(bad.folder, *more)
            bad.go_on()
            names = failing.check(bad.folder, done, old=old)
            assert names <= {asked.name}, (asked, nth, done)
            if asked.operation in ("WRITE", "FSYNC", "CREATE", "RENAME2"):
                assert names or _is_made_up_for(asked, once), (asked, nth, done)


def _is_made_up_for(asked: Asked, once: bool) -> bool:
    """FILE.meta.json is tried twice, where there is room for it. A run may write less often."""
    return asked.operation == "WRITE" or (once and asked.name == META)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_the_disk_from_every_write_on(bad: Disk, error: int) -> None:
    """Whatever is written afterwards, of whichever file."""
    count = sum(n for each, n in steps(bad, old=False).items() if each.operation == "WRITE")
    for nth in range(1, count + 1):
        failing.renew(bad.folder, old=False)
        bad.fail("WRITE|FSYNC|CREATE", "", nth, error, once=False)
        done = failing.traced(bad.folder)
        bad.go_on()
        assert failing.check(bad.folder, done), (nth, done)


@pytest.mark.parametrize("unit", ["size", "nr_inodes"])
def test_full_disks_of_every_size(tmp_path: Path, unit: str) -> None:
    small = tmp_path / "small"
    for number in range(1, PAGES):
        how = f"size={number * 4}k" if unit == "size" else f"nr_inodes={number + 1}"
        failing.full_disk(small, how)
        try:
            done = failing.traced(small)
            names = failing.check(small, done)
        finally:
            subprocess.run(["umount", small], check=True)
        assert not names or "No space left on device; free some space" in done.err
        assert not re.search("Traceback|a bug", done.err)
        small.rmdir()
        if not names and unit == "nr_inodes":
            return
    assert not names
