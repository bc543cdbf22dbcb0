"""Finding the command, deciding who runs it, and refusing what cannot be traced. No privileges."""

import os
import pwd
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.files.identity import Identity, resolve_user
from tracer.target.command import own_directories, resolve_command, validate_pid


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def failure(name: str, path: Path | str = "") -> TraceError:
    with pytest.raises(TraceError) as caught:
        resolve_command(name, {"PATH": str(path)})
    return caught.value


def test_first_executable_in_path_wins(tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", 0o644)
    second = program(tmp_path / "b" / "tool")
    program(tmp_path / "c" / "tool")
    path = os.pathsep.join(str(tmp_path / name) for name in ("none", "a", "b", "c"))
    assert resolve_command("tool", {"PATH": path}) == str(second)


def test_own_directories_come_after_path(tmp_path: Path) -> None:
    ours = program(tmp_path / "ours" / "tool")
    fallback = [str(tmp_path / "ours")]
    assert resolve_command("tool", {"PATH": str(tmp_path)}, fallback) == str(ours)
    first = program(tmp_path / "tool")
    assert resolve_command("tool", {"PATH": str(tmp_path)}, fallback) == str(first)


def test_a_slash_means_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "here" / "tool")
    monkeypatch.chdir(tmp_path)
    assert resolve_command("here/tool", {"PATH": ""}) == "here/tool"
    assert failure("./tool", tmp_path / "here").code == Exit.NOT_FOUND


def test_an_empty_path_entry_is_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    assert Path(resolve_command("tool", {"PATH": ":/none"})).resolve() == tmp_path / "tool"


@pytest.mark.parametrize("name", ["nosuch", "/no/such", ""])
def test_not_found_is_127(name: str, tmp_path: Path) -> None:
    error = failure(name, tmp_path)
    assert error.code == Exit.NOT_FOUND
    assert "not found" in error.message


def test_not_executable_is_126(tmp_path: Path) -> None:
    program(tmp_path / "tool", 0o644)
    (tmp_path / "folder").mkdir()
    assert failure("tool", tmp_path).code == Exit.NOT_EXECUTABLE
    error = failure(str(tmp_path / "folder"))
    assert error.code == Exit.NOT_EXECUTABLE
    assert "directory" in error.message


def test_names_are_made_printable() -> None:
    assert "\x1b" not in str(failure("\x1b[2Jx"))


def test_the_interpreters_programs_are_among_ours() -> None:
    assert any(Path(directory, "python3").exists() for directory in own_directories())


def test_pid_that_never_was() -> None:
    with pytest.raises(TraceError, match="no such process: 4194304") as caught:  # PID_MAX_LIMIT
        validate_pid(4194304)
    assert caught.value.code == Exit.NO_TARGET


def test_our_own_process_can_be_traced() -> None:
    validate_pid(os.getpid())


def test_zombie_is_no_target() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TraceError, match="is a zombie") as caught:
            validate_pid(process.pid)
        assert caught.value.code == Exit.NO_TARGET


def test_a_thread_names_its_process() -> None:
    stop, tids = threading.Event(), []
    started = threading.Event()

    def body() -> None:
        tids.append(threading.get_native_id())
        started.set()
        stop.wait()

    thread = threading.Thread(target=body)
    thread.start()
    started.wait()
    try:
        with pytest.raises(TraceError, match=f"--pid {os.getpid()}") as caught:
            validate_pid(tids[0])
    finally:
        stop.set()
        thread.join()
    assert caught.value.code == Exit.NO_TARGET


def as_root(monkeypatch: pytest.MonkeyPatch, uid: int = 0) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


NOBODY = pwd.getpwnam("nobody")


def test_sudo_means_the_invoking_user(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    env = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": "12345", "SUDO_USER": "nobody"}
    identity = resolve_user(None, env)
    assert identity is not None
    assert (identity.uid, identity.gid) == (NOBODY.pw_uid, 12345)
    assert (identity.name, identity.home) == ("nobody", NOBODY.pw_dir)
    assert 12345 in identity.groups


def test_without_sudo_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    assert resolve_user(None, {}) is None
    assert resolve_user(None, {"SUDO_UID": "0", "SUDO_GID": "0"}) is None


def test_anyone_can_set_sudo_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch, 1000)
    assert resolve_user(None, {"SUDO_UID": "4321"}) is None


def test_sudo_uid_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    env = {"SUDO_UID": "3987654321", "SUDO_GID": "7", "SUDO_USER": "ghost"}
    assert resolve_user(None, env) == Identity(3987654321, 7, (7,), "/", "ghost")


def test_sudo_uid_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    with pytest.raises(TraceError, match="not numbers"):
        resolve_user(None, {"SUDO_UID": "me"})


@pytest.mark.parametrize("option", ["nobody", str(NOBODY.pw_uid)])
def test_user_by_name_or_number(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    identity = resolve_user(option, {"SUDO_UID": "1000"})
    assert identity is not None
    assert (identity.uid, identity.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_user_root_stays_root_under_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    assert resolve_user("root", {"SUDO_UID": "1000"}) is None


@pytest.mark.parametrize("option", ["no-such-user", "", "4294967299", "9" * 30])
def test_unknown_user(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    with pytest.raises(TraceError, match="no user"):
        resolve_user(option, {})


def test_only_root_becomes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch, 54321)
    with pytest.raises(TraceError) as caught:
        resolve_user("nobody", {})
    assert caught.value.code == Exit.NO_RIGHTS


def test_environment_is_the_users() -> None:
    identity = Identity(1000, 1000, (1000,), "/home/ann", "ann", "/bin/zsh")
    env = identity.environment({"PATH": "/bin", "HOME": "/root", "SUDO_UID": "1", "MAIL": "x"})
    assert env == {
        "PATH": "/bin",
        "HOME": "/home/ann",
        "USER": "ann",
        "LOGNAME": "ann",
        "SHELL": "/bin/zsh",
    }


def test_own_gives_the_file_away(tmp_path: Path) -> None:
    me = Identity(os.getuid(), os.getgid(), (), "/", "me")
    with open(tmp_path / "file", "w") as file:
        me.own(file.fileno())
        assert os.fstat(file.fileno()).st_uid == os.getuid()
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)
