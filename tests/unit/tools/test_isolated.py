"""The commands that tools/bootstrap makes run nothing of the caller's Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("pagefault-trace", "pagefault-report", "ptdump", "singlemap", "multimap")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_caller_has_planted_does_not_run(tmp_path: Path, name: str) -> None:
    """Root, where sudo leaves PYTHONPATH and HOME as they are."""
    command = Path(sys.executable).with_name(name)
    if not command.exists():
        pytest.skip("no environment that tools/bootstrap made")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / ".local" / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    for folder in (tmp_path, site):
        for module in ("usercustomize", "sitecustomize", "click", "rich", "numpy", "bcc"):
            text = 'import os; os.write(2, b"planted\\n"); os._exit(9)'
            (folder / f"{module}.py").write_text(text)
    planted = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "PYTHONUSERBASE": ""}
    done = subprocess.run(
        [command, "--help"],
        env=os.environ | planted,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
