"""Names use the field's words (docs/glossary.md), not ones that were this project's alone."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What stood here once, and what perf and the kernel's documentation say.
WORDS = {
    **dict.fromkeys(("told", "untold", "tell", "tells"), "report, record, distinguish"),
    **dict.fromkeys(("look", "looks", "looked"), "snapshot, read, check"),
    **dict.fromkeys(("lay", "lays", "laid"), "map"),
    **dict.fromkeys(("taken", "taker", "takings"), "unmapped, discarded, released"),
    **dict.fromkeys(("road", "roads"), "path"),
    "story": "history",
    "shelf": "archive",
    "weather": "faults, stress",
}
PLAIN = re.compile(
    r"look(ed|s)?_?up|looks?_(like|different)|only_looks|(laid|lay)_out|snapshot_taken"
)
C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|\"(\\.|[^\"])*\"", re.DOTALL)
SOURCES = [
    path
    for pattern in (
        "tracer/**/*.py",
        "bench/**/*.py",
        "tests/**/*.py",
        "bpf/*.[ch]",
        "tests/**/*.c",
    )
    for path in sorted(ROOT.glob(pattern))
]


def names(path: Path) -> Iterator[str]:
    """The identifiers of a source file, in Python and in C; not its text and comments."""
    text = path.read_text()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.string
    else:
        yield from re.findall(r"[A-Za-z_]\w*", C_COMMENT.sub(" ", text))


def words(name: str) -> list[str]:
    """The words of `a_name`, `A_NAME` and `AName`."""
    plain = PLAIN.sub("", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return plain.split("_")


def test_a_name_is_split_into_words() -> None:
    assert words("_takes_SomeName") == ["", "takes", "some", "name"]
    assert words("WINDOW_UNTOLD") == ["window", "untold"]
    assert not set(words("_looked_up")) & set(WORDS)


@pytest.mark.parametrize("folder", ["tracer", "bench", "tests", "bpf"])
def test_names_use_the_words_of_the_field(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}": WORDS[word]
        for path in SOURCES
        if path.is_relative_to(ROOT / folder)
        for name in set(names(path))
        for word in words(name)
        if word in WORDS
    }
    assert found == {}
