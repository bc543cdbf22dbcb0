"""tools/install: what it refuses and fetches, and that uninstalling removes nothing of others."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMANDS = ("pagefault-trace", "pagefault-report", "ptdump", "singlemap", "multimap")


# Stands for .venv's interpreter, the distribution's and that of the new environment.
PYTHON = r"""#!/bin/bash
echo "$*" >>"__LOG__"
[[ ${PYTHONNOUSERSITE-} ]] || exit 1 # or packages in HOME count as installed
case " $* " in
*" -c "*) echo "$0" ;;
*" venv "*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python" ;;
*" wheel "*) mkdir -p "${@: -2:1}" && touch "${@: -2:1}/it.whl" ;;
*" --no-deps "*)
    for name in __COMMANDS__; do echo "#!$0" >"${0%/*}/$name"; done ;;
esac
"""


def _run(*args: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "tools" / "install"), *args], capture_output=True, text=True, timeout=60
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


def test_all_that_is_fetched_is_held_to_its_hash(tmp_path: Path) -> None:
    checkout, prefix = tmp_path / "checkout", tmp_path / "prefix"
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    log = tmp_path / "log"
    text = PYTHON.replace("__LOG__", str(log)).replace("__COMMANDS__", " ".join(COMMANDS))
    python.write_text(text)
    python.chmod(0o755)
    shutil.copytree(ROOT / "tools", checkout / "tools")
    prefix.mkdir()
    done = _run(str(prefix), root=checkout)
    assert done.returncode == 0, done.stderr
    wheels = checkout / "build" / "wheel"
    calls = re.findall("-m pip (.*)", log.read_text())
    assert calls == [
        f"wheel --quiet --no-deps --no-build-isolation -w {wheels} {checkout}",
        "install --quiet --no-cache-dir --require-hashes --only-binary :all:"
        f" -r {checkout}/requirements/install.txt",
        f"install --quiet --no-cache-dir --no-deps {wheels}/it.whl",
    ]
    assert sorted(os.listdir(prefix / "bin")) == sorted(COMMANDS)
    # sudo drops PYTHONNOUSERSITE, and may keep HOME.
    assert len(re.findall("^-I -m (?:venv|pip install) ", log.read_text(), re.M)) == 3
