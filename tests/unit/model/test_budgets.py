"""--fail-if: the closed grammar, the figures it names, and what a run is held against."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.outputs_data import names, rows
from tracer.common.errors import Exit
from tracer.model.budgets import FIGURES, BadBudget, parse_budget
from tracer.model.result import Books, Verdict
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Kind
from tracer.outputs.figures import Figures
from tracer.outputs.verdict import complaints, verdict_of


@pytest.mark.parametrize(
    ("text", "figure", "comparison", "limit"),
    [
        ("major>0", "major", ">", 0),
        (" faults >= 10k ", "faults", ">=", 10_000),
        ("huge<1", "huge", "<", 1),
        ("gained.populate!=1.5M", "gained.populate", "!=", 1_500_000),
        ("given_up.reclaim==0", "given_up.reclaim", "==", 0),
        ("cause.kernel<=7", "cause.kernel", "<=", 7),
        ("resident>64MiB", "resident", ">", 64 << 20),
        ("resident>1.5kB", "resident", ">", 1500),
        ("resident>4096", "resident", ">", 4096),
        ("growth<-1KiB", "growth", "<", -1024),
        ("p99>2ms", "p99", ">", 2_000_000),
        ("max>2", "max", ">", 2000),
        ("p50>1.5µs", "p50", ">", 1500),
        ("p50>500ns", "p50", ">", 500),
    ],
)
def test_what_is_understood(text: str, figure: str, comparison: str, limit: Fraction | int) -> None:
    budget = parse_budget(text)
    assert (budget.figure, budget.comparison, budget.limit) == (figure, comparison, limit)
    assert budget.text == text.strip()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "write one like"),
        ("major", "write one like"),
        (">0", "write one like"),
        ("major 0", "write one like"),
        ("mayor>0", "did you mean major or"),
        ("Major>0", "did you mean major"),
        ("gained.popluate>0", "did you mean gained.populate"),
        ("gained.initial>0", "is no figure"),
        ("blah>0", "try faults, major"),
        ("major=0", "there are > >= < <= == !="),
        ("major<>0", "is no comparison"),
        ("major>", "10000 or 10k"),
        ("major>one", "10000 or 10k"),
        ("major>1MiB", "10000 or 10k"),
        ("faults>1e3", "10000 or 10k"),
        ("faults>inf", "10000 or 10k"),
        ("faults>٣", "10000 or 10k"),
        ("resident>64M", "64MiB"),
        ("p99>2 minutes", "1.5ms"),
        ("p99>1ms and major>0", "1.5ms"),
        ("faults>" + "9" * 30, "can ever be"),
        ("faults>" + "9" * 5000, "can ever be"),
    ],
)
def test_what_is_not(text: str, word: str) -> None:
    with pytest.raises(BadBudget, match=".*") as caught:
        parse_budget(text)
    assert word in str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"\w+(\.\w+)?[<>=!]+-?[0-9.]*\w*", fullmatch=True))
def test_any_text_is_a_budget_or_refused(text: str) -> None:
    try:
        budget = parse_budget(text)
    except BadBudget:
        return
    assert budget.figure in FIGURES
    budget.broken_by(0)


@given(
    st.sampled_from(list(FIGURES)), st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15)
)
def test_a_budget_compares_exactly(figure: str, limit: int, actual: int) -> None:
    unit = {"TIME": "ns"}.get(FIGURES[figure].name, "")
    held = {sign: parse_budget(f"{figure}{sign}{limit}{unit}") for sign in ("<", "==", ">")}
    assert all(budget.limit == Fraction(limit) for budget in held.values())
    assert [held[s].broken_by(actual) for s in ("<", "==", ">")] == [
        actual < limit,
        actual == limit,
        actual > limit,
    ]


def test_what_has_no_value_breaks_nothing() -> None:
    assert not parse_budget("p99<1s").broken_by(None)
    assert not parse_budget("p99!=1s").broken_by(None)
    verdict = verdict_of(EXACT, {"p99": None}, [parse_budget("p99>1ms")], strict=True)
    assert (verdict.status, complaints(verdict)) == (Exit.OK, [])
    (budget,) = verdict.budgets
    assert (budget.shown, budget.unknown) == ("of no fault", False)


# -- figures --------------------------------------------------------------------------------


def test_every_figure_has_a_value_and_a_name() -> None:
    values = Figures().values(Books())
    assert set(FIGURES) <= set(values)
    assert values["p99"] is values["max"] is values["resident"] is values["peak"] is None
    assert all(values[name] == 0 for name, unit in FIGURES.items() if unit.name == "COUNT")


def test_figures_count_every_row() -> None:
    figures = Figures()
    figures.write(rows(3, major=[True, False, True], latency_ns=[10, UNKNOWN_LATENCY, 30]), names())
    figures.write(rows(2, kind=Kind.COW, cause=Cause.KERNEL, access=Access.READ), names())
    figures.write(rows(0), names())
    books = Books(
        traced=5,
        foreign=1,
        kernel=7,
        lost=2,
        lost_other=1,
        missed=1,
        gained=9,
        mapped=7,
        resident=3,
        resident_growth=-2,
        resident_peak=5,
        failed_lost=20,
        foreign_lost=300,
    )
    values = figures.values(books)
    expected = {
        **{"faults": 8, "major": 2, "minor": 3, "anon": 3, "cow": 2, "file": 0},
        **{"cause.user": 3, "cause.kernel": 2, "access.read": 2, "access.write": 3},
        **{"lost": 323, "kernel": 7, "gained": 9, "resident": 3 * 4096},
        **{"growth": -2 * 4096, "peak": 5 * 4096},
        **{"p50": 30, "max": 1380},
    }
    assert {name: values[name] for name in expected} == expected


# -- the verdict ----------------------------------------------------------------------------

EXACT = Books(traced=10, kernel=10, gained=4, given_up=1, mapped_change=3)


def judge(books: Books, *budgets: str, strict: bool = False, **values: int) -> Verdict:
    return verdict_of(books, values, [parse_budget(text) for text in budgets], strict)


def test_an_exact_run_within_its_budgets() -> None:
    verdict = judge(EXACT, "major>0", strict=True, major=0)
    assert verdict.status == Exit.OK
    assert complaints(verdict) == []


@pytest.mark.parametrize(
    ("books", "word"),
    [
        (Books(traced=8, lost=2, kernel=10), "2 faults lost"),
        (Books(traced=1, kernel=1, lost_other=1), "1 record of threads"),
        (Books(traced=9, kernel=10), "+1 faults that no row explains"),
        (Books(traced=9, missed=1, kernel=10), "missed by the probe"),
        (
            Books(traced=1, kernel=1, unfollowed=1),
            "starts and exits of threads that may have been missed: 1",
        ),
        (
            Books(traced=1, kernel=1, kernel_at_least=True, kernel_reason="a map was full"),
            "the kernel may have counted more: a map was full",
        ),
        (Books(traced=1, kernel=1, failed_lost=2), "2 failed faults lost"),
        (Books(traced=1, kernel=1, foreign_lost=1), "1 fault by other processes lost"),
        (
            Books(traced=5, missed=5, kernel=10, blind_faults=3, under_way=1, missed_reason="why"),
            "1 fault missed by the probe: why",
        ),
        (Books(traced=1, kernel=1, conflict=1), "contradicted by pagemap"),
        (Books(gained=3, gained_by={"unknown": 3}), "3 pages gained, cause unknown"),
        (Books(given_up=1, lost_by={"unknown": 1}), "1 page released, cause unknown"),
        (Books(gained=3, mapped_change=4), "mapped pages changed by +4"),
    ],
)
def test_what_strict_minds(books: Books, word: str) -> None:
    verdict = judge(books, strict=True)
    assert verdict.status == Exit.INEXACT
    (line,) = complaints(verdict)
    assert line.startswith("--strict: ")
    assert word in line
    lenient = judge(books)
    assert (lenient.status, complaints(lenient)) == (0, [])
    assert lenient.inexact == verdict.inexact


def test_what_strict_lets_pass() -> None:
    blind = Books(traced=8, missed=2, blind=True, blind_faults=1, under_way=1, kernel=10, failed=3)
    left_out = Books(traced=1, kernel=1, failed_filtered=2, foreign_filtered=3)
    unknown = Books(gained=3, mapped_change=None)
    for books in (blind, left_out, unknown):
        assert judge(books, strict=True).status == 0


def test_broken_budgets_are_named_with_their_figures() -> None:
    verdict = judge(EXACT, "major>0", "p99>2ms", "resident<1MiB", major=3, p99=1, resident=5)
    assert verdict.status == Exit.OVER_BUDGET
    assert complaints(verdict) == [
        "--fail-if 'major>0': over budget, it is 3",
        "--fail-if 'resident<1MiB': over budget, it is 5 bytes",
    ]
    assert [(check.actual, check.broken) for check in verdict.budgets] == [
        (3, True),
        (1, False),
        (5, True),
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("text", ["resident>64MiB", "growth>0", "peak<1"])
def test_a_figure_that_is_not_known_leaves_no_verdict(text: str, strict: bool) -> None:
    """Neither kept nor broken; and that comes before another budget that is broken."""
    known = Figures().values(Books(resident=None, resident_peak=70_000, mapped=9))
    budgets = [parse_budget(text), parse_budget("major==0")]
    verdict = verdict_of(EXACT, known, budgets, strict)
    assert verdict.status == Exit.INEXACT
    assert complaints(verdict) == [
        f"--fail-if '{text}': no verdict, since the figure is not known",
        "--fail-if 'major==0': over budget, it is 0",
    ]
    first, second = verdict.budgets
    assert (first.actual, first.shown, first.broken, first.unknown) == (
        *(None, "not known", False, True),
    )
    assert (second.broken, second.unknown) == (True, False)
    assert verdict.inexact == ()


def test_a_peak_is_a_bound() -> None:
    verdict = judge(EXACT, "peak>4KiB", peak=8192)
    assert verdict.status == Exit.OVER_BUDGET
    (line,) = complaints(verdict)
    assert line.endswith("over budget, it is at least 8192 bytes")


def test_what_came_is_a_bound_where_calls_filled_memory_unseen() -> None:
    for books, words in (
        (Books(unseen_fills=1), "it is at least 8"),
        (EXACT, "it is 8"),
    ):
        for figure in ("gained", "gained.populate", "given_up.munmap"):
            found: dict[str, Any] = {figure: 8}
            verdict = judge(books, f"{figure}>7", **found)
            assert verdict.status == Exit.OVER_BUDGET
            (line,) = complaints(verdict)
            assert line.endswith(words)
            verdict = judge(books, f"{figure}<9", **found)
            exact = books == EXACT
            assert verdict.status == (Exit.OVER_BUDGET if exact else Exit.INEXACT)
            (line,) = complaints(verdict)
            assert line.endswith(words)
            assert ("no verdict" in line) != exact
            assert judge(books, f"{figure}<8", **found).status == Exit.OK


def test_an_inexact_record_comes_before_a_broken_budget() -> None:
    verdict = judge(Books(traced=1, kernel=1, lost_other=1), "major>0", strict=True, major=1)
    assert verdict.status == Exit.INEXACT
    assert len(complaints(verdict)) == 2
