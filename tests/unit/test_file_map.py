"""docs/how-it-works.md says where what is: every folder of the tree, and every file by its name."""

import re
from pathlib import Path

import pytest

from tests.unit.file_map import BEGIN, END, FOLDERS, PAGE, ROOT, file_map

SUFFIXES = ("py", "c", "h")
OTHERS = ("click.py",)  # somebody else's


def test_the_map_is_the_tree() -> None:
    """Write it anew with `python -m tests.unit.file_map`."""
    assert PAGE.read_text().split(BEGIN)[1].split(END)[0] == file_map()


def test_every_folder_is_in_the_map() -> None:
    found = {path.parent for path in (ROOT / "tracer").rglob("*.py")}
    assert {str(path.relative_to(ROOT)) for path in found} == {*FOLDERS} - {"bpf"}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """`X.py` and folder/`X.py` in backticks, of whatever folder of ours."""
    ours = [
        str(path.relative_to(ROOT))
        for folder in ("tracer", "bpf", "tests", "bench", "docs")
        for path in (ROOT / folder).rglob("*.*")
    ]
    for name in re.findall(rf"`([\w/]+\.(?:{'|'.join(SUFFIXES)}))`", page.read_text()):
        found = any(f"/{path}".endswith(f"/{name}") for path in ours)
        assert found or name in OTHERS, f"{page.name}: {name}"
