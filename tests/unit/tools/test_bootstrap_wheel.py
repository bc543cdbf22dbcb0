"""The wheel has bpf/ and every command's module; the sdist has all of the checkout."""

import importlib
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_all_of_bpf_is_inside(wheel: zipfile.ZipFile) -> None:
    ours = {
        f"tracer/{path.relative_to(ROOT)}" for path in (ROOT / "bpf").rglob("*") if path.is_file()
    }
    assert "tracer/bpf/shared.h" in ours
    assert ours == {name for name in wheel.namelist() if name.startswith("tracer/bpf/")}


def test_nothing_but_the_package_is_inside(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tracer"}
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_its_types_can_be_used(wheel: zipfile.ZipFile) -> None:
    assert "tracer/py.typed" in wheel.namelist()


def test_the_sdist_has_all_of_the_checkout(tmp_path: Path) -> None:
    """What the tests need as well, so that a distribution's packager can run them."""
    hatchling = pytest.importorskip("hatchling.builders.sdist")
    (path,) = hatchling.SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(path) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = {name for name in tracked.split("\0") if name and (ROOT / name).exists()}
    assert there - packed == set()


def test_bcc_is_not_fetched_from_pypi(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    needs = [
        line
        for line in wheel.read(name).decode().splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert sorted(need.split()[1].split(">")[0] for need in needs) == ["click", "numpy", "rich"]


def _scripts() -> dict[str, str]:
    found: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "scripts"
    ]
    return found


@pytest.mark.parametrize("command", _scripts())
def test_every_command_can_be_called(command: str) -> None:
    module, function = _scripts()[command].split(":")
    assert callable(getattr(importlib.import_module(module), function))
