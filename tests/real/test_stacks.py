"""Call stacks of real programs, as distributions build them: how many are whole, and all are true.

"Whole" is to a thread's beginning. The shares are of all faults of a program's first run, most of
which it takes while the tracer learns its code, and of a later one, which begins with its rules.
"""

import csv
from collections import Counter
from pathlib import Path

import pytest

from tests.real.test_programs import is_exact
from tests.real.witnessed import Witnessed

# The least share of faults with a whole stack. Programs of hundredths of a second, whose faults
# come faster than their rules are learned, have a smaller one.
WHOLE = {
    "sqlite3": 0.99,
    "git": 0.99,
    "gcc": 0.98,
    "make": 0.95,
    "redis": 0.98,
    "numpy": 0.97,
    "java": 0.90,
    "node": 0.60,
    "postgresql": 0.50,
}
# … of a later run, which begins with the rules that the first one stored. It has 99 % where the
# tracer gets its processor time (docs/decisions/0013-stored-rules.md); this is to hold where it
# has to wait for it as well.
LATER = {"node": 0.90, "postgresql": 0.88, "gcc": 0.95, "git": 0.90}
# What a stack that is not whole is said to lack (docs/csv.md).
NOTES = {
    *("no frame pointers", "truncated", "no unwind rule", "no return address"),
    *("unreadable stack", "copy dropped", "copy too short", "code replaced"),
}
# The least share of the interpreter's faults that have Python's functions: from the first such
# fault on, and of all, where the file may be read while the interpreter starts.
PYTHON, PYTHON_OF_ALL = 0.99, 0.90
LOOP = "_PyEval_EvalFrameDefault"
OUTERMOST = {"_start", "__clone3", "clone3", "__clone", "clone", "_dl_start_user", "_dl_start"}
each = pytest.mark.parametrize(
    "traced", [(name, "stacks") for name in WHOLE], indirect=True, ids=list(WHOLE)
)
later = pytest.mark.parametrize(
    "traced", [(name, "later") for name in LATER], indirect=True, ids=list(LATER)
)


def frames_of(traced: Witnessed) -> dict[int, list[dict[str, str]]]:
    """The rows of FILE.stacks.csv by stack, innermost first."""
    found: dict[int, list[dict[str, str]]] = {}
    with Path(f"{traced.csv}.stacks.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(int(row["stack"]), []).append(row)
    return found


@each
def test_most_stacks_are_whole(traced: Witnessed) -> None:
    _are_whole(traced, WHOLE)


@later
def test_more_are_whole_in_a_later_run(traced: Witnessed) -> None:
    _are_whole(traced, LATER)


def _are_whole(traced: Witnessed, least: dict[str, float]) -> None:
    """Whether so large a share is whole, and the others say why they are not."""
    notes = {
        number: next((row["note"] for row in rows if row["note"]), "")
        for number, rows in frames_of(traced).items()
    }
    counts = Counter(
        notes[int(row["stack"])] if row["stack"] else "no stack" for row in traced.rows()
    )
    total = counts.total()
    shares = ", ".join(f"{note or 'whole'} {n / total:.2%}" for note, n in counts.most_common())
    print(f"{traced.program.name}: {shares}")
    assert counts[""] / total >= least[traced.program.name], shares
    known = {note for note in counts if not note.startswith("no symbols")}
    assert known <= NOTES | {"", "no stack"}, counts


@each
def test_a_whole_stack_ends_where_a_thread_begins(traced: Witnessed) -> None:
    """… as far as that has a name: those of a stripped loader, or of a program, have none."""
    odd = Counter(
        rows[-1]["function"]
        for rows in frames_of(traced).values()
        if not any(row["note"] for row in rows)
        and rows[-1]["side"] == "user"
        and rows[-1]["function"]
    )
    assert set(odd) <= OUTERMOST, odd


@pytest.mark.parametrize("traced", [("numpy", "stacks")], indirect=True, ids=["numpy"])
def test_python_s_functions_are_named(traced: Witnessed) -> None:
    """Of the faults taken while Python code runs, in extensions, too."""
    stacks = frames_of(traced)
    named = nameless = early = 0
    for row in traced.rows():
        frames = stacks.get(int(row["stack"] or 0), [])
        python = [each for each in frames if each["side"] == "python"]
        if python:
            named += 1
            assert all(each["file"] for each in python), python
        elif any(each["function"] == LOOP for each in frames):
            nameless += named > 0
            early += named == 0
    print(f"numpy: {named} faults with Python's functions, {early} before, {nameless} without")
    assert named / (named + nameless) >= PYTHON
    assert named / (named + nameless + early) >= PYTHON_OF_ALL


@each
def test_no_fault_is_lost_for_it(traced: Witnessed) -> None:
    books = traced.books
    assert not books["lost"], books
    assert books["balanced"] or not is_exact(traced), books
