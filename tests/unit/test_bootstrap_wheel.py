"""The wheel: bpf/ travels inside, and every command's module is there."""

import importlib
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    assert "tracer/bpf/record.h" in ours
    assert ours == {name for name in wheel.namelist() if name.startswith("tracer/bpf/")}


def test_nothing_but_the_package_is_inside(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tracer"}
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


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
