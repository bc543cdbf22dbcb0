"""tools/install: what it refuses, and that uninstalling removes nothing of others."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = ("pagefault-trace", "pagefault-report", "ptdump", "singlemap", "multimap")


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "tools" / "install"), *args], capture_output=True, text=True, timeout=60
    )


def _installed(prefix: Path) -> Path:
    lib = prefix / "lib" / "pagefault-trace"
    (lib / "bin").mkdir(parents=True)
    (lib / "pyvenv.cfg").touch()
    (prefix / "bin").mkdir()
    for name in COMMANDS:
        (prefix / "bin" / name).symlink_to(lib / "bin" / name)
    return lib


def test_another_program_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ptdump").write_text("theirs")
    result = _run(str(tmp_path))
    assert result.returncode == 1
    assert f"{tmp_path}/bin/ptdump is there already" in result.stderr
    assert os.listdir(tmp_path) == ["bin"]


def test_uninstall_removes_all_of_ours(tmp_path: Path) -> None:
    _installed(tmp_path)
    (tmp_path / "lib" / "theirs").touch()
    assert _run("--uninstall", str(tmp_path)).returncode == 0
    assert os.listdir(tmp_path / "bin") == []
    assert os.listdir(tmp_path / "lib") == ["theirs"]
    assert _run("--uninstall", str(tmp_path)).returncode == 0


def test_uninstall_leaves_what_is_not_ours(tmp_path: Path) -> None:
    lib = _installed(tmp_path)
    (lib / "pyvenv.cfg").unlink()
    (tmp_path / "bin" / "ptdump").unlink()
    (tmp_path / "bin" / "ptdump").symlink_to("/usr/bin/true")
    assert _run("--uninstall", str(tmp_path)).returncode == 0
    assert os.listdir(tmp_path / "bin") == ["ptdump"]
    assert lib.exists()
