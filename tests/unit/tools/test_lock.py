"""tools/lock against stand-ins for python3 and uv: all of requirements/ is renewed, or nothing."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMES = ("dev", "install", "kernels", "uv")

PYTHON = r"""#!/bin/bash
echo "python $*" >>"$LOG"
if [[ " $* " == *" venv "* ]]; then
    mkdir -p "${!#}/bin"
    cp "$0" "${!#}/bin/python"
    cp "${0%/*}/uv" "${!#}/bin/uv"
fi
"""
UV = r"""#!/bin/bash
echo "uv $*" >>"$LOG"
[[ -z ${FAILS-} || " $* " != *$FAILS* ]] || exit 1
echo "new==2"
"""


@dataclass
class Checkout:
    root: Path
    log: Path

    def lock(self, fails: str = "") -> int:
        path = f"{self.root.parent / 'bin'}:{os.defpath}"
        env = {"PATH": path, "LOG": str(self.log), "FAILS": fails, "TMPDIR": str(self.root.parent)}
        return subprocess.run(
            [str(self.root / "tools" / "lock")], env=env, capture_output=True, timeout=60
        ).returncode

    def calls(self, program: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(program)]

    def files(self) -> dict[str, list[str]]:
        folder = self.root / "requirements"
        return {path.stem: path.read_text().splitlines() for path in folder.iterdir()}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "bin").mkdir()
    for name, text in (("python3", PYTHON), ("uv", UV)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    (root / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "lock", root / "tools")
    for name in NAMES:
        (root / "requirements" / f"{name}.txt").write_text("old==1\n")
    return Checkout(root, tmp_path / "log")


def test_all_are_renewed(checkout: Checkout) -> None:
    assert checkout.lock() == 0
    files = checkout.files()
    assert set(files) == set(NAMES)
    for lines in files.values():
        assert "make lock" in lines[1]
        assert lines[2:] == ["new==2"]
    assert sorted(path.name for path in checkout.root.parent.iterdir()) == [
        "bin",
        "checkout",
        "log",
    ]


def test_uv_itself_comes_by_its_hash(checkout: Checkout) -> None:
    assert checkout.lock() == 0
    (install,) = (line for line in checkout.calls("python") if " install " in line)
    assert "--require-hashes --only-binary :all:" in install
    assert install.endswith(f"-r {checkout.root}/requirements/uv.txt")


def test_each_python_is_checked_for_each_file(checkout: Checkout) -> None:
    assert checkout.lock() == 0
    checks = [line for line in checkout.calls("uv") if "--python-platform" in line]
    for name in NAMES:
        for python in ("3.11", "3.12", "3.13", "3.14"):
            (_,) = (
                line
                for line in checks
                if f"--python-version {python} " in line and line.endswith(f"/{name}.txt")
            )


@pytest.mark.parametrize("fails", ["--universal", "--constraint", "--python-version 3.14"])
def test_none_is_renewed_where_one_cannot_be(checkout: Checkout, fails: str) -> None:
    assert checkout.lock(fails) != 0
    assert checkout.files() == {name: ["old==1"] for name in NAMES}
