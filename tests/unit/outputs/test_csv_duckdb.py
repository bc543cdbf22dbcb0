"""DuckDB reads the CSV files as they are: it finds out separators and types by itself."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.outputs_data import HOSTILE, five, name_of, names, rows, table
from tracer.files.output import open_output
from tracer.model.rows import Names, Region, Rows
from tracer.outputs.csv import COLUMNS, CsvOutput
from tracer.outputs.pages import PAGE_COLUMNS, write_pages

if os.environ.get("CI"):
    import duckdb
else:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not there: run tools/bootstrap")


def known(texts: list[str]) -> Names:
    """Names of which number n is `texts[n - 1]`, for comms and regions alike."""
    made = Names(["", *texts])
    made.regions += [Region(0x1000 * n, 1 << 48, "r-xp", 0, text) for n, text in enumerate(texts)]
    return made


class Symbols:
    """One name for all."""

    def __init__(self, text: str) -> None:
        self.text = text

    def names(self, rows: Rows) -> tuple[list[str], bool]:
        return [self.text] * len(rows), True

    ask = names

    def settle(self) -> None:
        """All is known."""


def written(path: Path, texts: list[str]) -> Path:
    """Three rows a name, in comm, region and symbol."""
    which = np.repeat(np.arange(1, len(texts) + 1), 3)
    output = CsvOutput(open_output(str(path), force=True), Symbols(texts[0]))
    output.write(rows(len(which), comm=which, region=which), known(texts))
    output.close()
    return path


def read(path: Path) -> list[dict[str, object]]:
    found = duckdb.sql(f"select * from '{path}'")
    assert found is not None
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def test_the_types_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    output = CsvOutput(open_output(str(path)))
    output.write(five(), names())
    output.close()
    found = duckdb.sql(f"select * from '{path}'")
    assert found is not None
    assert found.columns == list(COLUMNS)
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert {types[name] for name in ("number", "time_ns", "latency_ns", "pages")} == {"BIGINT"}
    assert types["major"] == "BOOLEAN"
    assert types["comm"] == types["region"] == types["kind"] == "VARCHAR"


@pytest.mark.parametrize("name", HOSTILE)
def test_one_hostile_name(tmp_path: Path, name: str) -> None:
    """Alone in its file: nothing else shows the separator."""
    texts = [name or "x", "plain"]
    for row, text in zip(
        read(written(tmp_path / "a.csv", texts)), np.repeat(texts, 3), strict=True
    ):
        assert (name_of(str(row["comm"])), name_of(str(row["region"]))) == (text, text)
        assert name_of(str(row["symbol"])) == texts[0]


def test_all_of_them(tmp_path: Path) -> None:
    texts = [name for name in HOSTILE if name]
    found = read(written(tmp_path / "a.csv", texts))
    assert [name_of(str(row["comm"])) for row in found[::3]] == texts
    assert [name_of(str(row["region"])) for row in found[::3]] == texts


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1) | (
    st.text("\"',;=\\\n\t #x'", min_size=1)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=8))
def test_any_names(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [*texts, "a word"]  # else a column of numbers is one of numbers
    found = read(written(tmp_path_factory.getbasetemp() / "any.csv", texts))
    assert [name_of(str(row["region"])) for row in found[::3]] == texts


def test_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    file = open_output(str(path))
    texts = [name for name in HOSTILE if name]
    which = np.arange(1, len(texts) + 1)
    write_pages(file, [table(rows(len(texts), region=which), region=which)], known(texts))
    file.close()
    found = read(path)
    assert list(found[0]) == list(PAGE_COLUMNS)
    assert [name_of(str(row["region"])) for row in found] == texts
