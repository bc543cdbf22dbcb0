"""The pages themselves: prose in lines of 100 columns, and links that lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 100
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md"))
)
GENERATED = {"docs/support-matrix.md"}  # tests/kernels/matrix.py writes it, a fact a line
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str, skipped: tuple[str, ...] = ("|", "![")) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without code, comments, and what begins as tables and pictures."""
    fenced = commented = False
    for number, line in enumerate(text.splitlines(), 1):
        inner = line.strip()
        if inner.startswith("```"):
            fenced = not fenced
        elif not fenced:
            commented |= inner.startswith("<!--")
            if not commented and not inner.startswith(skipped):
                yield number, line
            commented &= not inner.endswith("-->")


def anchors(page: Path) -> set[str]:
    """What its headings are called in links, as GitHub has it."""
    headings = (line for _, line in prose(page.read_text()) if re.match("#+ ", line))
    kept = (re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_prose_has_short_lines(page: str) -> None:
    """A line that is longer has one word only: an address."""
    long = {
        number: line
        for number, line in prose((ROOT / page).read_text())
        if len(line) > COLUMNS and len(line.split()) > 1
    }
    assert long == {}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = "\n".join(line for _, line in prose((ROOT / page).read_text(), skipped=()))
    for target in LINK.findall(re.sub(r"`[^`]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue  # the network's
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_what_is_prose() -> None:
    text = "a\n```\ncode\n```\n| b |\n![c](d)\n<!-- e\nf -->\n- g\n"
    assert [line for _, line in prose(text)] == ["a", "- g"]
