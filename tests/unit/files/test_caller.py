"""Under sudo, output files are opened, renamed and removed with the caller's rights."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.files.caller import Caller, acting_as, who_called
from tracer.files.output import open_output, replace_file, reserve

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: takes on others' rights")

USER, GROUP, TEAM = 12345, 12346, 12347
CALLER = Caller(USER, GROUP, (GROUP, TEAM))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The caller's own directory, beside one of root's."""
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    own = tmp_path / "home"
    own.mkdir()
    os.chown(own, USER, GROUP)
    (tmp_path / "roots").mkdir()
    return own


def credentials() -> dict[str, str]:
    """What the kernel says of the calling thread's."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines)
    return {name: found[name] for name in ("Uid", "Gid", "Groups", "CapEff")}


def refused(path: Path, *, force: bool = False) -> TraceError:
    with pytest.raises(TraceError) as caught:
        open_output(str(path), CALLER, force)
    assert caught.value.code == Exit.OUTPUT
    return caught.value


def test_a_link_of_the_callers_own_reaches_what_the_caller_does(home: Path) -> None:
    roots = home.parent / "roots"
    (home / "faults.csv").symlink_to(roots / "sudoers")
    (home / "elsewhere").symlink_to(roots)
    for path in (home / "faults.csv", home / "elsewhere" / "sudoers", roots / "sudoers"):
        error = refused(path)
        assert error.message.endswith("Permission denied")
        assert "sudo tee" in error.hint
        with pytest.raises(TraceError):
            replace_file(str(path), b"", CALLER)
        assert reserve(str(path), 1, CALLER) == -1
    assert list(roots.iterdir()) == []


def test_what_is_made_is_the_callers(home: Path) -> None:
    file = open_output(str(home / "f"), CALLER)
    file.write(b"1\n")
    file.close()
    replace_file(str(home / "g"), b"2\n", CALLER)
    for name in ("f", "g"):
        found = (home / name).stat()
        assert (found.st_uid, found.st_gid) == (USER, GROUP)
    os.close(reserve(str(home / "f"), 4096, CALLER))
    file = open_output(str(home / "f"), CALLER, force=True)
    file.write(b"3\n")
    file.close()
    assert (home / "f").read_text() == "3\n"
    assert sorted(path.name for path in home.iterdir()) == ["f", "g"]


def test_a_file_of_roots_is_not_the_callers_to_overwrite(home: Path) -> None:
    (home / "f").write_text("precious")
    assert refused(home / "f", force=True).message.endswith("Permission denied")
    assert (home / "f").read_text() == "precious"


def test_in_a_directory_of_the_callers_group(home: Path) -> None:
    team = home.parent / "team"
    team.mkdir()
    os.chown(team, 0, TEAM)
    team.chmod(0o775)
    for _ in range(2):  # the second takes the first one's place by rename(2)
        file = open_output(str(team / "f"), CALLER, force=True)
        file.write(b"1\n")
        file.close()
    replace_file(str(team / "f"), b"2\n", CALLER)
    open_output(str(team / "h"), CALLER).discard()
    assert [path.name for path in team.iterdir()] == ["f"]


def test_names_are_changed_with_the_callers_rights(home: Path) -> None:
    """Also long after the file was opened."""
    made = open_output(str(home / "f"), CALLER)
    os.chown(home, 0, 0)
    with pytest.raises(TraceError, match="cannot remove .*: Permission denied; remove it"):
        made.discard()
    assert (home / "f").exists()


def test_rights_are_a_threads_own_and_come_back(home: Path) -> None:
    inside, leave = threading.Event(), threading.Event()
    failed: list[bool] = []

    def other() -> None:
        with acting_as(CALLER):
            inside.set()
            leave.wait()
            try:
                (home.parent / "roots" / "g").touch()
            except PermissionError:
                failed.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    (home.parent / "roots" / "f").touch()  # here we are root still
    leave.set()
    thread.join()
    assert failed == [True]
    before = credentials()
    with contextlib.suppress(RuntimeError), acting_as(CALLER), acting_as(CALLER):
        assert credentials()["Groups"].split() == [str(GROUP), str(TEAM)]
        raise RuntimeError
    assert credentials() == before


def test_who_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    assert who_called() is None
    with acting_as(None), acting_as((USER, GROUP)):
        assert os.access("/root", os.W_OK)
    monkeypatch.setenv("SUDO_UID", str(USER))
    monkeypatch.setenv("SUDO_GID", str(GROUP))
    found = who_called()
    assert found is not None
    assert found[:2] == (USER, GROUP)
    monkeypatch.setenv("SUDO_UID", "0")
    assert who_called() is None
