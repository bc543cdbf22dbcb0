"""Lack of memory, told apart from other errors, with the limit that was reached."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.common import shortage
from tracer.common.errors import Exit
from tracer.probes import bpf


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "x"), True),
        (ImportError("libz3.so.4: failed to map segment from shared object"), True),
        (OSError("libbcc.so.0: cannot create shared object descriptor: Cannot allocate"), True),
        (RuntimeError("can't start new thread"), True),
        (caused(ImportError("numpy"), MemoryError()), True),
        (caused(ValueError("x"), OSError(errno.ENOMEM, "")), True),
        (OSError(errno.EPERM, os.strerror(errno.EPERM)), False),
        (ImportError("No module named 'numpy'"), False),
        (ValueError("out of memory"), False),  # not what a library says
        (RuntimeError("x"), False),
        (None, False),
    ],
)
def test_what_is_a_shortage(error: BaseException | None, short: bool) -> None:
    assert shortage.is_short(error) == short


def test_a_chain_without_end() -> None:
    error = ValueError()
    error.__context__ = error
    assert not shortage.is_short(error)


def test_the_lowest_limit_of_the_groups_of_version_2(tmp_path: Path) -> None:
    for group, limit in (("a/b/c", "max"), ("a/b", "67108864"), ("a", "134217728")):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(limit + "\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b/c\n")
    assert shortage.group_limit(tmp_path, own) == 64 << 20
    own.write_text("0::/a\n")
    assert shortage.group_limit(tmp_path, own) == 128 << 20
    own.write_text("0::/other\n")
    assert shortage.group_limit(tmp_path, own) is None


def test_the_limit_of_a_group_of_version_1(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "x"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("1048576\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096}\n")
    own = tmp_path / "cgroup"
    own.write_text("3:cpu,cpuacct:/y\n2:memory:/x\n0::/\n")
    assert shortage.group_limit(tmp_path, own) == 1 << 20
    own.write_text("2:memory:/\n0::/\n")
    assert shortage.group_limit(tmp_path, own) is None
    # In a container the path may lead out of what is mounted there.
    own.write_text("2:memory:/../../x\n")
    assert shortage.group_limit(tmp_path, own) is None


@pytest.mark.parametrize("own", ["", "what is this", "0:", "::", ":::::\n\0"])
def test_files_that_are_not_what_they_should_be(tmp_path: Path, own: str) -> None:
    (tmp_path / "cgroup").write_text(own)
    assert shortage.group_limit(tmp_path, tmp_path / "cgroup") is None
    assert shortage.group_limit(tmp_path, tmp_path / "nowhere") is None


def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(300 << 20, "of address space (ulimit -v)"), (64 << 20, "of its control group")]
    monkeypatch.setattr(shortage, "limits_set", lambda: limits)
    error = shortage.short("to load the probe", buffer=64 << 20)
    assert error.code == Exit.TRACER_FAILED
    assert str(error) == (
        "there is not enough memory to load the probe: the limit is 300 MiB of address "
        "space (ulimit -v) and 64 MiB of its control group; raise the limit, or give a smaller "
        "--buffer than 64M: the tracer takes some 80 MiB (300 MiB of address space while it "
        "compiles), and --buffer besides"
    )
    monkeypatch.setattr(shortage, "limits_set", list)
    assert "there is not enough memory; free some: " in str(shortage.short(""))


@pytest.mark.parametrize(("limit", "warned"), [(None, False), (90, True), (200, False)])
def test_a_warning_beforehand(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, warned: bool
) -> None:
    bytes_ = None if limit is None else limit << 20
    monkeypatch.setattr(shortage, "group_limit", lambda: bytes_)
    assert bool(shortage.warning(64 << 20)) == warned
    assert "smaller --buffer" not in shortage.warning(1 << 20)


@pytest.mark.parametrize(
    ("release", "limit", "refused", "says"),
    [
        ("6.18.1", 65536, errno.ENOMEM, errno.ENOMEM),  # a control group
        ("6.18.1", 65536, errno.EPERM, errno.EPERM),  # rights
        ("5.10.0", 65536, errno.EPERM, errno.ENOMEM),  # more than may be locked
        ("5.10.0", resource.RLIM_INFINITY, errno.EPERM, errno.EPERM),
        ("strange", 65536, errno.EPERM, errno.EPERM),
    ],
)
def test_memory_is_distinguished_from_rights(
    monkeypatch: pytest.MonkeyPatch, release: str, limit: int, refused: int, says: int
) -> None:
    """Where the limit of locked memory cannot be raised either, which needs CAP_SYS_RESOURCE."""

    def call(*_: object) -> int:
        raise OSError(refused, os.strerror(refused))

    def kept(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(bpf, "_bpf", call)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(resource, "setrlimit", kept)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", release, "", "")))
    with pytest.raises(bpf.Refused) as caught:
        bpf.create_map(bpf.ARRAY, 4, 8, 1, 0, "x")
    assert caught.value.errno == says


@pytest.mark.parametrize("mebibytes", [20, 30, 50, 70, 80, 90, 100])
def test_no_traceback_with_few_addresses(mebibytes: int) -> None:
    """Whatever is imported by then; without rights there is nothing to trace anyway."""
    bytes_ = mebibytes << 20
    script = (
        "import resource, runpy, sys; sys.argv = ['x', '--quiet', '--', 'true']; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({bytes_}, {bytes_})); "
        "from tracer.start import pagefault_trace; pagefault_trace()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode in (Exit.TRACER_FAILED, Exit.NO_RIGHTS), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("pagefault-trace: ")
    assert done.stderr.count("\n") == 1
