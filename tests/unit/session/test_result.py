"""The table of pages: of many small spaces in a few tables, at the cost of what there is."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from tracer.model.result import joined
from tracer.session.result import pop_page_tables
from tracer.timeline.page_columns import COLUMNS


class Measured(np.ndarray):
    """An array that counts how often it is asked for its length."""

    asked = 0

    def __len__(self) -> int:
        Measured.asked += 1
        found: int = self.shape[0]
        return found


def recorder(spaces: int, pages: int) -> Any:
    """So many spaces of so many pages each."""

    def pop_history(space: int) -> dict[str, Any]:
        history: dict[str, Any] = {name: np.zeros(pages, dtype) for name, dtype in COLUMNS.items()}
        return history | {"page": (np.arange(pages, dtype=np.uint64) + space).view(Measured)}

    every = [SimpleNamespace(number=number, owner=100 + number) for number in range(1, spaces + 1)]
    return cast(
        Any,
        SimpleNamespace(
            spaces=SimpleNamespace(all=lambda: every),
            timeline=SimpleNamespace(ledger=SimpleNamespace(pop_history=pop_history)),
        ),
    )


def lengths_asked(spaces: int) -> int:
    Measured.asked = 0
    pop_page_tables(recorder(spaces, 1))
    return Measured.asked


def test_many_small_spaces_cost_what_they_are() -> None:
    few, many = lengths_asked(500), lengths_asked(1000)
    assert 0 < many <= 2.1 * few


def test_spaces_come_together_in_order() -> None:
    tables = pop_page_tables(recorder(30, 1000))
    assert [len(table.page) for table in tables] == [9000, 9000, 9000, 3000]
    whole = joined(tables)
    assert whole.space.tolist() == np.repeat(np.arange(1, 31), 1000).tolist()
    assert (whole.pid == whole.space + 100).all()
    assert [len(table.page) for table in pop_page_tables(recorder(0, 0))] == [0]
