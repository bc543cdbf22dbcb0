"""tests/conftest.py: a live test may skip on a desk, never in CI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]

SKIPS_IN_TEST = "import pytest\ndef test_it():\n    pytest.skip('no frobnicator')\n"
SKIPS_AS_MODULE = "import pytest\npytest.skip('no module', allow_module_level=True)\n"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for folder in ("unit", "live"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}_a.py").write_text(SKIPS_IN_TEST)
        (tmp_path / "tests" / folder / f"test_{folder}_b.py").write_text(SKIPS_AS_MODULE)
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def _pytest(suite: Path, folder: str, ci: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{folder}"],
        cwd=suite, env={**os.environ, "CI": ci}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    summary = re.search(r"=+ (.*) in [\d.]+s", result.stdout.splitlines()[-1])
    assert summary, result.stdout + result.stderr
    return result.returncode, result.stdout


@pytest.mark.parametrize("folder", ["unit", "live"])
def test_skips_pass_outside_ci(suite: Path, folder: str) -> None:
    code, out = _pytest(suite, folder, "")
    assert code in (0, 5)
    assert "2 skipped" in out


def test_unit_skips_pass_in_ci(suite: Path) -> None:
    code, out = _pytest(suite, "unit", "true")
    assert code in (0, 5)
    assert "2 skipped" in out


@pytest.mark.parametrize("module", ["a", "b"])
def test_live_skips_fail_in_ci(suite: Path, module: str) -> None:
    code, out = _pytest(suite, f"live/test_live_{module}.py", "true")
    assert code != 0
    assert "a live test must not skip in CI: " in out
