"""requirements/: what is fetched for .venv and by `make install` is named by version and hash."""

import functools
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What of pyproject.toml each is for: extras, besides the dependencies themselves.
EXTRAS = {"install": (), "dev": ("dev",), "kernels": ("dev", "kernels")}
FILES = (*EXTRAS, "uv")


def _text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


@functools.cache
def _entries(name: str) -> dict[Requirement, frozenset[str]]:
    """Requirements with their hashes; anything else in the file is an error."""
    lines = [line for line in _text(name).splitlines() if not line.startswith("#")]
    entries = {}
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), entry
        entries[Requirement(requirement)] = frozenset(hashes)
    return entries


def _holds(requirement: Requirement, python: str) -> bool:
    here = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.1",
        "python_version": python,
        "sys_platform": "linux",
    }
    return requirement.marker is None or requirement.marker.evaluate(here)


def _pins(name: str, python: str) -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for requirement in _entries(name):
        if _holds(requirement, python):
            project = canonicalize_name(requirement.name)
            assert project not in pins, f"{project} is there twice for {python}"
            (pin,) = requirement.specifier
            pins[project] = Version(pin.version)
    return pins


def _wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml names, its extras of extras resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(map(Requirement, project["dependencies"]))
    todo = list(extras)
    while todo:
        for requirement in map(Requirement, project["optional-dependencies"][todo.pop()]):
            if requirement.name == project["name"]:
                todo += requirement.extras
            else:
                wanted.append(requirement)
    return wanted


def _backend() -> list[Requirement]:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    return list(map(Requirement, build["requires"]))


@pytest.mark.parametrize("name", FILES)
def test_each_has_one_version_and_hashes(name: str) -> None:
    assert _entries(name)
    for requirement, hashes in _entries(name).items():
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, requirement


@pytest.mark.parametrize("name", FILES)
def test_no_address_is_in_it(name: str) -> None:
    assert not re.search(r"://|http|@|index|find-links", _text(name))


def test_every_file_is_known_here() -> None:
    assert {path.name for path in (ROOT / "requirements").iterdir()} == {
        f"{name}.txt" for name in FILES
    }


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", EXTRAS)
def test_all_that_the_project_names_is_in_it(name: str, python: str) -> None:
    pins = _pins(name, python)
    # .venv builds the project, too, without fetching what that takes.
    for requirement in _wanted(EXTRAS[name]) + (_backend() if "dev" in EXTRAS[name] else []):
        if _holds(requirement, python):
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_what_is_installed_was_tested() -> None:
    """The smaller files are parts of the larger, version by version and hash by hash."""
    assert _entries("install").items() < _entries("dev").items() < _entries("kernels").items()


def test_the_project_itself_and_the_unrelated_bcc_are_not_fetched() -> None:
    for name in FILES:
        assert not {each.name for each in _entries(name)} & {"pagefault-trace", "bcc"}


def test_this_environment_is_the_one_described() -> None:
    if not (Path(sys.prefix) / ".bootstrap").exists():
        pytest.skip("no environment that tools/bootstrap made")
    pins = _pins("dev", f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {name: Version(importlib.metadata.version(name)) for name in pins} == pins
