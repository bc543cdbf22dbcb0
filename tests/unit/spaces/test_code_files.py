"""Which file code is of, however the file is deleted, replaced, or hidden by another root."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.procfs import roots
from tracer.procfs.maps import Mapping, kernel_device
from tracer.spaces import code_files
from tracer.spaces.code_files import MOST_HELD, CodeFiles

PID, START, END = 10, 0x400000, 0x401000


class Proc:
    """A procfs with one process, which maps one file after another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "proc"
        self.process = self.path / str(PID)
        (self.process / "map_files").mkdir(parents=True)
        (self.path / "self").mkdir()
        self._mapped: list[int] = []
        self.mount()

    def mount(self, more: str = "") -> None:
        """`more` than the mounts there are."""
        for name in ("self", str(PID)):
            text = Path("/proc/self/mountinfo").read_text() + more
            (self.path / name / "mountinfo").write_text(text)

    def map(self, file: Path, path: str = "") -> Mapping:
        """A mapping of a file, shown with that path; the file stays when it is deleted."""
        self._mapped.append(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
        link = self.process / "map_files" / f"{START:x}-{END:x}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/proc/self/fd/{self._mapped[-1]}")
        return mapping(file, path)

    def hide(self) -> None:
        """As without the right to open map_files."""
        (self.process / "map_files").rename(self.process / "hidden")

    def end(self) -> None:
        """The process ends."""
        shutil.rmtree(self.process)
        self.close()

    def close(self) -> None:
        while self._mapped:
            os.close(self._mapped.pop())


def mapping(file: Path, path: str = "") -> Mapping:
    status = file.stat()
    device = kernel_device(os.major(status.st_dev), os.minor(status.st_dev))
    return Mapping(START, END, "r-xp", 0, device, status.st_ino, path or str(file))


def content(files: CodeFiles, number: int) -> str:
    """What a file holds, "" where it cannot be reached."""
    try:
        descriptor = files.open(number)
    except OSError:
        return ""
    with os.fdopen(descriptor) as file:
        return file.read()


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    proc = Proc(tmp_path)
    yield proc
    proc.close()


@pytest.fixture
def files(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> Iterator[CodeFiles]:
    monkeypatch.setattr(roots._OwnMounts, "_changed", lambda self: True)  # poll: of procfs only
    files = CodeFiles(str(proc.path))
    yield files
    files.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text("one")
    return path


def replace(program: Path, text: str) -> None:
    """As an upgrade does."""
    new = program.with_name("new")
    new.write_text(text)
    new.rename(program)


def test_what_can_be_opened_by_its_path_is_not_held(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    number = files.see(PID, proc.map(program), anew=True)
    assert number == 1
    assert files.see(PID, proc.map(program), anew=True) == 1
    proc.end()
    assert content(files, number) == "one"
    assert not files._held
    assert content(files, 0) == content(files, 2) == ""


@pytest.mark.parametrize("perms", ["r--p", "rw-p", "r--s"])
def test_only_code_matters(proc: Proc, files: CodeFiles, program: Path, perms: str) -> None:
    assert files.see(PID, proc.map(program)._replace(perms=perms), anew=True) == 0


@pytest.mark.parametrize("path", ["", "[vdso]", "/memfd:jit (deleted)", "/dev/zero (deleted)"])
def test_what_is_no_file(proc: Proc, files: CodeFiles, program: Path, path: str) -> None:
    assert files.see(PID, proc.map(program)._replace(path=path), anew=True) == 0


def test_a_deleted_file_is_held(proc: Proc, files: CodeFiles, program: Path) -> None:
    seen = proc.map(program, f"{program} (deleted)")
    program.unlink()
    number = files.see(PID, seen, anew=True)
    assert len(files._held) == 1
    proc.end()
    assert content(files, number) == content(files, number) == "one"


def test_a_file_replaced_later_is_found_while_it_is_mapped(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    number = files.see(PID, proc.map(program), anew=True)
    replace(program, "two")
    assert content(files, number) == "one"
    other = files.see(PID, proc.map(program), anew=True)
    assert other != number
    assert content(files, other) == "two"
    assert content(files, number) == ""  # nothing maps it
    assert not files._held


def test_it_is_found_behind_the_mapping_of_any_process(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    """Of the last that a list showed to have it."""
    number = files.see(PID + 1, mapping(program), anew=True)
    assert files.see(PID, proc.map(program), anew=False) == number
    replace(program, "two")
    assert content(files, number) == "one"


def test_a_file_that_a_later_list_shows_as_deleted_is_held(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    """… and so the names of what was seen before stay, too."""
    seen = proc.map(program)
    number = files.see(PID, seen, anew=True)
    replace(program, "two")
    later = files.see(PID, seen._replace(path=f"{program} (deleted)"), anew=False)
    proc.end()
    assert content(files, number) == content(files, later) == "one"


def test_a_number_used_again_is_another_file(proc: Proc, files: CodeFiles, program: Path) -> None:
    """File systems give a deleted file's inode to the next one: here it is told apart by its time.

    A list of mappings believes what the last new mapping showed.
    """
    seen = proc.map(program)
    number = files.see(PID, seen, anew=True)
    program.write_text("two")
    os.utime(program, ns=(1, 1))
    assert content(files, number) == ""
    assert files.see(PID, seen, anew=False) == number
    other = files.see(PID, seen, anew=True)
    assert other != number
    assert files.see(PID, seen, anew=False) == other
    assert content(files, other) == "two"


def test_another_root_has_another_file_at_the_same_path(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    """As in a container: found behind the mapping, held, as our path leads elsewhere."""
    inside = program.with_name("inside")
    inside.write_text("theirs")
    with inside.open() as file:  # it has no path from our root
        inside.unlink()
        theirs = Path(f"/proc/self/fd/{file.fileno()}")
        number = files.see(PID, proc.map(theirs, str(program)), anew=True)
    ours = files.see(PID, proc.map(program), anew=True)
    proc.end()
    assert content(files, number) == "theirs"
    assert content(files, ours) == "one"
    assert len(files._held) == 1


def test_the_sideband_names_a_path_below_a_chroot(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    """From our root it has another, by which it is found."""
    number = files.see(PID, proc.map(program, "/no/such/program"), anew=True)
    proc.end()
    assert content(files, number) == "one"
    assert not files._held


def test_without_map_files_the_target_s_root_is_used(
    proc: Proc, files: CodeFiles, program: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    there = root / str(program).lstrip("/")
    there.parent.mkdir(parents=True)
    there.write_text("theirs")
    (proc.process / "root").symlink_to(root)
    proc.hide()
    number = files.see(PID, mapping(there, str(program)), anew=True)
    assert content(files, number) == "theirs"
    # Neither is the file that the kernel named.
    assert files.see(PID, mapping(program)._replace(inode=1), anew=True) == 0
    assert files.see(PID, mapping(program)._replace(device=1), anew=True) == 0


def test_of_a_process_that_has_ended_the_path_is_held_against_the_kernel_s_word(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    proc.end()
    number = files.see(PID, mapping(program), anew=True)
    assert content(files, number) == "one"
    link = program.with_name("link")
    link.symlink_to(program)
    assert files.see(PID, mapping(program, str(link)), anew=True) == 0
    # Its inode may be another's by now.
    seen = mapping(program)
    replace(program, "two")
    assert files.see(PID, seen, anew=True) == 0


def test_of_a_process_that_has_ended_a_file_that_is_held_is_known(
    proc: Proc, files: CodeFiles, program: Path
) -> None:
    seen = proc.map(program, f"{program} (deleted)")
    program.unlink()
    number = files.see(PID, seen, anew=True)
    proc.end()
    assert files.see(PID + 1, seen, anew=True) == number


def test_so_many_are_held(proc: Proc, files: CodeFiles, tmp_path: Path) -> None:
    numbers = []
    for count in range(MOST_HELD + 3):
        path = tmp_path / f"p{count}"
        path.write_text(str(count))
        seen = proc.map(path, f"{path} (deleted)")
        path.unlink()
        numbers.append(files.see(PID, seen, anew=True))
    assert len(files._held) == MOST_HELD
    proc.end()
    held = [content(files, number) for number in numbers]
    assert held == [*map(str, range(MOST_HELD)), "", "", ""]
    descriptors = list(files._held.values())
    files.close()
    assert not files._held
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptors[0])


def test_nothing_large_is_held(
    proc: Proc, files: CodeFiles, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_files, "LARGEST_HELD", 2)
    seen = proc.map(program, f"{program} (deleted)")
    program.unlink()
    assert content(files, files.see(PID, seen, anew=True)) == "one"
    assert not files._held


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files(
    proc: Proc, files: CodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    seen = proc.map(path)
    opened = []
    real = os.open

    def spy(path: str, flags: int, *rest: int, **more: int) -> int:
        if not flags & os.O_PATH:
            opened.append(path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    assert files.see(PID, seen, anew=True) == 0
    proc.hide()
    assert files.see(PID, seen, anew=True) == 0
    assert opened == []


def test_nothing_that_fuse_serves(
    proc: Proc, files: CodeFiles, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even asked what it is: that, too, its server would have to answer."""
    text = Path("/proc/self/mountinfo").read_text()
    for name in ("self", str(PID)):
        fuse = "".join(f"{line.partition(' - ')[0]} - fuse.x x rw\n" for line in text.splitlines())
        (proc.path / name / "mountinfo").write_text(fuse)
    seen = proc.map(program)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda descriptor: pytest.fail("asked"))
        assert files.see(PID, seen, anew=True) == 0
        proc.hide()
        assert files.see(PID, seen, anew=True) == 0


def test_no_path_through_fuse(proc: Proc, files: CodeFiles, program: Path, tmp_path: Path) -> None:
    number = files.see(PID, proc.map(program), anew=True)
    proc.mount(f"9999 1 0:99 / {tmp_path} rw - fuse x rw\n")
    assert content(files, number) == "one"  # behind the mapping
    proc.hide()
    assert content(files, number) == ""


def test_where_no_table_has_the_mount_statfs_is_used(
    proc: Proc, files: CodeFiles, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("self", str(PID)):
        (proc.path / name / "mountinfo").write_text("")
    seen = proc.map(program)
    assert content(files, files.see(PID, seen, anew=True)) == "one"
    monkeypatch.setattr(roots, "_magic", lambda handle: roots._FUSE)
    assert CodeFiles(str(proc.path)).see(PID, seen, anew=True) == 0


def test_what_is_known_is_bounded(
    proc: Proc, files: CodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_files, "_MOST_FILES", 5)
    monkeypatch.setattr(code_files, "_MOST_DEVICES", 1)
    for count in range(10):
        path = tmp_path / f"p{count}"
        path.write_text(str(count))
        number = files.see(PID, proc.map(path), anew=True)
        assert content(files, number) == str(count)
    assert len(files._files) == len(files._numbers) == len(files._seen) == 5
