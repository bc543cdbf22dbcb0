"""Code by its right name where the path of its file leads nowhere, or to another file."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.live import features
from tests.live.background import Background
from tests.live.tracing import until
from tests.live.workload import BINARY, Range, Workload
from tracer.model.rows import RowRecords
from tracer.probes.choose import Attached
from tracer.procfs.maps import read_maps
from tracer.session.plan import Plan
from tracer.session.session import Session

N = 37
WAYS = 1 if os.environ.get("PAGEFAULT_GUEST") else 2  # emulated, one of each is enough
WHO = ["stack_writes", "stack_middle", "stack_outer"]
PLAN = Plan(snapshot_interval_ms=100, stacks=True, symbols=True)


def check(
    attached: Attached,
    *under: str,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """A workload that `under` runs has its names once it has ended.

    `before` and `after` are done before and after the trace first sees it.
    """
    with Workload("stacks", N, under=under) as work:
        before()
        with Background(attached, work.pid, plan=replace(PLAN)) as live:
            after()
            work.go()
            live.end()
        written = work.range("written")
    mine = within(live, written)
    assert len(mine) == N
    assert set(names_of(live.session, mine)) == {WHO[0]}
    check_stacks(live.session, mine)


def within(live: Background, range_: Range) -> RowRecords:
    address = live.log.rows["address"]
    return live.log.rows[(address >= range_.start) & (address < range_.end)]


def names_of(session: Session, rows: RowRecords) -> list[str]:
    """The functions at fault, by what --symbols says."""
    assert session.naming is not None
    instructions = rows["ip"], rows["ip_region"], rows["ip_offset"]
    session.naming.symbols.names(*instructions)
    session.naming.wait()
    names, complete = session.naming.symbols.names(*instructions)
    assert complete
    return [name.partition("+")[0] for name in names]


def check_stacks(session: Session, rows: RowRecords) -> None:
    """The callers, by what --stacks says."""
    assert session.stacks is not None
    assert session.naming is not None
    locations, stacks = session.stacks.locations, session.stacks.stacks
    for number in set(rows["stack"].tolist()):
        frames = stacks[number].frames[: len(WHO)]
        assert [session.naming.frames.frame(locations[at]).text() for at in frames] == WHO


def copied(path: Path) -> tuple[str, ...]:
    """What runs the workload from a copy at another path."""
    return "sh", "-c", f'cp "$0" {path} && exec {path} "$@"'


def in_own_mounts(script: str) -> tuple[str, ...]:
    """… in a mount namespace of its own."""
    return "unshare", "--mount", "--propagation", "private", "sh", "-ec", script


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program"


def in_jail(folder: Path, jail: Path) -> tuple[str, ...]:
    """… and below another root, which has `folder` as /mnt and the workload's copy "tail" there."""
    script = f"mount --rbind / {jail}; mount --bind {folder} {jail}/mnt"
    return in_own_mounts(f'{script}; exec chroot {jail} /mnt/tail "$@"')


def upgrade(program: Path) -> None:
    """As an upgrade does: another file, with other symbols, takes its name."""
    other = program.with_name("other")
    shutil.copy("/bin/sh", other)
    other.rename(program)


def test_where_it_was(with_stacks: Attached, program: Path) -> None:
    check(with_stacks, *copied(program))


@pytest.mark.parametrize("act", [Path.unlink, upgrade][:WAYS])
def test_gone_before_the_trace(
    with_stacks: Attached, program: Path, act: Callable[[Path], None]
) -> None:
    check(with_stacks, *copied(program), before=lambda: act(program))


@pytest.mark.parametrize("act", [Path.unlink, upgrade][:WAYS])
def test_gone_meanwhile(with_stacks: Attached, program: Path, act: Callable[[Path], None]) -> None:
    check(with_stacks, *copied(program), after=lambda: act(program))


@pytest.mark.parametrize("meanwhile", [False, True][:WAYS])
def test_a_library_that_is_upgraded(with_stacks: Attached, tmp_path: Path, meanwhile: bool) -> None:
    """The C library's memset is at fault."""
    library = tmp_path / "libc.so.6"
    (ours,) = {m.path for m in read_maps(os.getpid()) if m.path.endswith("/libc.so.6")}
    shutil.copy(ours, library)
    under = "env", f"LD_LIBRARY_PATH={tmp_path}"
    with Workload("stacks", N, under=under) as work:
        if not meanwhile:
            upgrade(library)
        with Background(with_stacks, work.pid, plan=replace(PLAN)) as live:
            if meanwhile:
                upgrade(library)
            work.go()
            live.end()
        set_ = work.range("set")
    mine = within(live, set_)
    assert len(mine) == N
    assert all("memset" in name for name in names_of(live.session, mine))
    regions = live.session.names.regions
    assert {regions[at].name.startswith(str(library)) for at in mine["ip_region"]} == {True}


def test_another_file_is_at_its_path_here(with_stacks: Attached, program: Path) -> None:
    shutil.copy("/bin/sh", program)
    inside = program.with_name("inside")
    shutil.copy(BINARY, inside)
    check(with_stacks, *in_own_mounts(f'mount --bind {inside} {program}; exec {program} "$@"'))


def test_nothing_is_at_its_path_here(with_stacks: Attached, tmp_path: Path) -> None:
    script = f'mount -t tmpfs x {tmp_path}; cp "$0" {tmp_path}/p; exec {tmp_path}/p "$@"'
    check(with_stacks, *in_own_mounts(script))


def test_below_another_root(with_stacks: Attached, tmp_path: Path) -> None:
    """The sideband names the path from there; here it is another."""
    shutil.copy(BINARY, tmp_path / "tail")
    jail = tmp_path / "jail"
    jail.mkdir()
    check(with_stacks, *in_jail(tmp_path, jail))


def test_on_an_overlay(with_stacks: Attached, tmp_path: Path) -> None:
    """Whose device is one by maps, and another by stat and by the sideband."""
    lower, upper, merged = (tmp_path / name for name in ("lower", "upper", "merged"))
    for folder in (lower, upper, merged):
        folder.mkdir()
    features.overlay()
    layers = f"lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work"
    script = (
        f"mount -t tmpfs x {lower}; mount -t tmpfs x {upper}; mkdir {upper}/upper {upper}/work;"
        f' cp "$0" {lower}/p; mount -t overlay -o {layers} x {merged}; exec {merged}/p "$@"'
    )
    check(with_stacks, *in_own_mounts(script))


@pytest.mark.parametrize("jailed", [False, True][:WAYS])
def test_started_below_another_root(with_stacks: Attached, tmp_path: Path, jailed: bool) -> None:
    """The sideband reports it with the path from that root; then it has ended, too."""
    shutil.copy(BINARY, tmp_path / "tail")
    jail = tmp_path / "jail"
    jail.mkdir()
    alone = f'mount -t tmpfs x {jail}; cp "$0" {jail}/p; exec {jail}/p "$@"'
    under = in_jail(tmp_path, jail) if jailed else in_own_mounts(alone)
    path = "/mnt/tail" if jailed else f"{jail}/p"
    command = ["sh", "-c", 'read line; exec "$0" "$@"', *under, str(BINARY), "stacks", str(N)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        with Background(with_stacks, process.pid, plan=replace(PLAN)) as live:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert live.session.naming is not None
            files = live.session.naming.files
            until(lambda: path in [file.inside for file in list(files._files.values())])
            process.communicate(b"\n\n")
            live.end()
    rows = live.log.rows
    named = [name == WHO[0] for name in names_of(live.session, rows)]
    assert named.count(True) == N
    check_stacks(live.session, rows[named])
