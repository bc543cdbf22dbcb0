"""Output files are opened before tracing, safely, and never overwritten unasked."""

import contextlib
import fcntl
import itertools
import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tracer.common.deadline import Stalled
from tracer.common.errors import Exit, TraceError
from tracer.files.output import open_output, replace_file

NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory anyone may write to, as /tmp is."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def refused(path: Path | str, force: bool = False) -> TraceError:
    with pytest.raises(TraceError) as caught:
        open_output(str(path), force=force)
    assert caught.value.code == Exit.OUTPUT
    return caught.value


def test_a_new_file(tmp_path: Path) -> None:
    file = open_output(str(tmp_path / "f"))
    file.write(b"line\n")
    file.close()
    file.close()
    assert (tmp_path / "f").read_bytes() == b"line\n"
    assert file.created
    assert file.regular


def test_relative_paths_and_links_in_ones_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-file").symlink_to(tmp_path / "link" / "target")
    monkeypatch.chdir(tmp_path)
    for path in ("f", "./link/../link/g", "to-file"):
        open_output(path).close()
    assert {p.name for p in (tmp_path / "real").iterdir()} == {"g", "target"}


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("precious")
    error = refused(tmp_path / "f")
    assert "exists already" in error.message
    assert "--force" in error.hint
    assert (tmp_path / "f").read_text() == "precious"


def test_force_empties_it_only_when_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("precious, and longer")
    open_output(str(tmp_path / "f"), force=True).discard()
    assert (tmp_path / "f").read_text() == "precious, and longer"
    file = open_output(str(tmp_path / "f"), force=True)
    file.write(b"new\n")
    file.close()
    assert (tmp_path / "f").read_text() == "new\n"


@pytest.mark.parametrize(
    ("path", "reason", "hint"),
    [
        ("missing/f", "No such file or directory", "make the directory first"),
        ("", "Is a directory", "name a file in it"),
        ("file/f", "Not a directory", ""),
        ("slash/", "Is a directory", "name a file in it"),
        ("loop", "Too many levels of symbolic links", ""),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, path: str, reason: str, hint: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "slash").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    error = refused(f"{tmp_path}/{path}")
    assert reason in error.message
    assert error.hint == hint


def test_the_path_is_made_printable(tmp_path: Path) -> None:
    assert "\\x1b" in refused(tmp_path / "\x1b" / "f").message


def test_a_link_in_a_shared_directory_is_not_followed(tmp_path: Path, shared: Path) -> None:
    (shared / "link").symlink_to(tmp_path / "victim")
    (shared / "way").symlink_to(tmp_path)
    for path in ("link", "way/victim"):
        for force in (False, True):
            assert "symbolic link" in refused(shared / path, force).message
    assert not (tmp_path / "victim").exists()


def test_a_hard_link_in_a_shared_directory_is_not_overwritten(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", shared / "f")
    assert "hard link" in refused(shared / "f", force=True).message
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
@pytest.mark.parametrize(("mode", "uid"), [(0o775, 0), (0o755, NOBODY)])
def test_links_where_others_may_write_are_followed_only_if_ours(
    tmp_path: Path, mode: int, uid: int
) -> None:
    """A directory writable by a group, and another user's own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("ours", "theirs", "twice"):
        (folder / name).symlink_to(tmp_path / name)
    os.link(folder / "twice", folder / "again", follow_symlinks=False)
    os.chown(folder / "theirs", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", folder / "linked")
    folder.chmod(mode)
    os.chown(folder, uid, uid)
    for name in ("theirs", "twice"):
        assert "symbolic link of another user" in refused(folder / name, force=True).message
    assert "hard link" in refused(folder / "linked", force=True).message
    open_output(str(folder / "ours")).close()
    open_output(str(folder / "theirs"), owner=(NOBODY, NOBODY)).close()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "ours", "theirs", "victim"}
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_nothing_slips_through_while_names_change(tmp_path: Path) -> None:
    """Another user swaps file, link and directory under our hands; the victim is never touched."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            makers: list[Callable[[], object]] = [
                lambda: os.symlink(victim, shared / "draft"),
                lambda: os.link(victim, shared / "draft"),
                lambda: (shared / "draft").touch(),
                lambda: os.symlink(tmp_path, shared / "draft"),
            ]
            for make in makers:
                make()
                os.rename(shared / "draft", shared / "f")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(shared / "f")

    def in_haste() -> bool:
        return True  # the disk need not have all of these

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(1000):
            for path in ("f", "f/victim"):
                with contextlib.suppress(TraceError):
                    file = open_output(str(shared / path), force=True)
                    file.hasty = in_haste
                    file.write(b"ours\n")
                    file.close()
            with contextlib.suppress(TraceError):
                replace_file(str(shared / "f"), b"ours\n", hasty=in_haste)
    finally:
        stop.set()
        thread.join()
    assert victim.read_text() == "precious"


def test_what_replaced_our_file_stays(tmp_path: Path) -> None:
    file = open_output(str(tmp_path / "f"))
    (tmp_path / "f").rename(tmp_path / "ours")
    (tmp_path / "f").write_text("precious")
    file.discard()
    assert (tmp_path / "f").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_anothers_file_in_a_shared_directory_is_not_overwritten(shared: Path) -> None:
    (shared / "f").touch()
    os.chown(shared / "f", NOBODY, NOBODY)
    assert "another user" in refused(shared / "f", force=True).message
    open_output(str(shared / "f"), owner=(NOBODY, NOBODY), force=True).discard()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_a_new_file_belongs_to_the_invoking_user(tmp_path: Path) -> None:
    open_output(str(tmp_path / "f"), owner=(NOBODY, 65533)).close()
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid) == (NOBODY, 65533)
    (tmp_path / "old").touch()
    open_output(str(tmp_path / "old"), owner=(NOBODY, 65533), force=True).close()
    assert (tmp_path / "old").stat().st_uid == 0


def test_standard_output_and_descriptors() -> None:
    reader, writer = os.pipe()
    try:
        file = open_output(f"/dev/fd/{writer}")
        file.write(b"through\n")
        file.close()
        os.write(writer, b"still open\n")
        assert os.read(reader, 100) == b"through\nstill open\n"
    finally:
        os.close(reader)
        os.close(writer)
    for path in ("-", "/dev/stdout"):
        file = open_output(path)
        assert os.path.sameopenfile(file.fileno(), 1)
        file.close()
    for number in (999, 10**30):
        assert "Bad file descriptor" in refused(f"/dev/fd/{number}").message


def test_a_full_pipe_set_to_nonblocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    file = open_output(f"/proc/self/fd/{writer}")
    size = 1 << 18
    if os.fork() == 0:
        os.close(writer)
        file.discard()
        left = size
        while left:
            left -= len(os.read(reader, 4096))
        os._exit(0)
    file.write(b"x" * (size - 1) + b"\n")
    assert os.wait()[1] == 0
    file.close()
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 10 bytes: stands for a disk that fills up in the middle of a line.

    Only for a moment: pytest's own output may be a file, too.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_grows_no_more_is_cut_to_whole_lines(tmp_path: Path) -> None:
    file = open_output(str(tmp_path / "f"))
    file.write(b"one\n")
    with small_files(), pytest.raises(TraceError, match="File too large") as caught:
        file.write(b"two\nthree\n")
    assert caught.value.code == Exit.OUTPUT
    file.close()
    assert (tmp_path / "f").read_bytes() == b"one\ntwo\n"


def test_with_force_a_file_in_a_shared_directory_is_replaced_when_it_is_written(
    shared: Path,
) -> None:
    """Not written into: it might be a link to another file."""
    path = shared / ("long" * 60)
    path.write_text("precious, and longer")
    before = path.stat().st_ino
    open_output(str(path), force=True).discard()
    assert path.read_text() == "precious, and longer"
    file = open_output(str(path), force=True)
    assert path.read_text() == "precious, and longer"
    file.write(b"new\n")
    assert path.read_text() == "new\n"
    assert path.stat().st_ino != before
    file.close()
    open_output(str(path), force=True).close()
    assert path.read_text() == ""
    assert list(shared.iterdir()) == [path]


def test_replacing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    replace_file(str(path), b"one\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~_umask()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(TraceError, match="No space left"):
        replace_file(str(path), b"two\n")
    assert path.read_bytes() == b"one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


LINE = b"x" * 99 + b"\n"


def test_a_pipe_nobody_reads_is_waited_for_until_there_is_haste() -> None:
    """What it has taken are whole lines; a second signal need not come while it waits."""
    reader, writer = os.pipe()
    file = open_output(f"/dev/fd/{writer}")
    os.close(writer)
    asked = itertools.count()
    file.hasty = lambda: next(asked) > 3
    with pytest.raises(Stalled) as caught:
        file.write(LINE * 10_000)
    assert str(caught.value) == f"/dev/fd/{writer}"
    with pytest.raises(Stalled):
        file.write(LINE)
    os.set_blocking(reader, False)
    received = os.read(reader, 1 << 20)
    assert len(received) > 50_000
    assert received == LINE * (len(received) // len(LINE))
    file.renew()
    file.write(LINE)
    assert os.read(reader, 1 << 20) == LINE
    file.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("size", [4096, 1 << 16, 1 << 18])
def test_all_comes_through_a_pipe(size: int) -> None:
    """However much it holds at once, and however long the lines are."""
    data = b"".join(b"%d" % number * (number % 3000) + b"\n" for number in range(1, 2000))
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
    file = open_output(f"/dev/fd/{writer}")
    os.close(writer)
    with ThreadPoolExecutor(1) as pool, open(reader, "rb") as received:
        everything = pool.submit(received.read)
        file.write(memoryview(data))
        file.close()
        assert everything.result() == data


def test_others_do_not_find_their_pipe_changed() -> None:
    reader, writer = os.pipe()
    file = open_output(f"/dev/fd/{writer}")
    assert os.get_blocking(writer)
    assert not os.get_blocking(file.fileno())
    file.close()
    os.close(reader)
    assert not stat.S_ISREG(os.fstat(writer).st_mode)
    file = open_output(f"/dev/fd/{writer}")  # nobody reads it: it cannot be opened anew
    with pytest.raises(BrokenPipeError):
        file.write(LINE)
    file.close()
    os.close(writer)


def test_a_socket_nobody_reads_is_waited_for_until_there_is_haste() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        file = open_output(f"/dev/fd/{ours.fileno()}")
        file.hasty = lambda: True
        with pytest.raises(Stalled):
            file.write(LINE * 100_000)
        file.close()
        assert ours.getblocking()


def test_a_file_of_our_own_can_be_shortened(tmp_path: Path) -> None:
    file = open_output(str(tmp_path / "f"))
    file.write(b"one\ntwo\n")
    file.shorten(4)
    file.write(b"three\n")
    file.close()
    assert (tmp_path / "f").read_bytes() == b"one\nthree\n"
    with (tmp_path / "f").open("ab") as shared:
        file = open_output(f"/dev/fd/{shared.fileno()}")
        file.write(b"four\n")
        file.shorten(4)
        file.close()
    assert (tmp_path / "f").read_bytes() == b"one\nthree\nfour\n"
