"""--strict and --fail-if applied to a run: exit status, the reasons, the budgets' figures."""

from collections.abc import Mapping, Sequence

from tracer.common.errors import Exit
from tracer.model.budgets import BOUNDS, FIGURES, FRAMES_CAME, Budget, Unit
from tracer.model.result import Books, Checked, Verdict


def verdict_of(
    books: Books,
    values: Mapping[str, int | None],
    budgets: Sequence[Budget],
    strict: bool,
) -> Verdict:
    """Check a finished run against its options; `values` by the names of FIGURES.

    An inexact record comes before a broken budget: its figures cannot be trusted. So does
    an unknown figure: whether its budget is broken cannot be decided.
    """
    inexact = tuple(_inexact(books))
    bounds = (*BOUNDS, *FRAMES_CAME) if books.unseen_fills else BOUNDS
    checked = tuple(_check(budget, values[budget.figure], bounds) for budget in budgets)
    status = Exit.OK
    if (strict and inexact) or any(budget.unknown for budget in checked):
        status = Exit.INEXACT
    elif any(budget.broken for budget in checked):
        status = Exit.OVER_BUDGET
    return Verdict(strict, inexact, checked, status)


def complaints(verdict: Verdict) -> list[str]:
    """A line for stderr for each thing that is wrong; [] where nothing is."""
    said = [f"--strict: {reason}" for reason in verdict.inexact if verdict.strict]
    for budget in verdict.budgets:
        if budget.broken:
            said.append(f"--fail-if '{budget.budget}': over budget, it is {budget.shown}")
        elif budget.unknown:
            why = "the figure is not known" if budget.actual is None else f"it is {budget.shown}"
            said.append(f"--fail-if '{budget.budget}': no verdict, since {why}")
    return said


def _inexact(books: Books) -> list[str]:
    """Why the record is not exact, in sentences; what a probe is blind to aside."""
    said = []
    if books.lost:
        said.append(f"{_count(books.lost, 'fault')} lost: no room in the ring, or not read in time")
    if books.failed_lost:
        said.append(f"{_count(books.failed_lost, 'failed fault')} lost: they have no rows")
    if books.foreign_lost:
        said.append(f"{_count(books.foreign_lost, 'fault')} by other processes lost")
    if books.lost_other:
        said.append(
            f"{_count(books.lost_other, 'record')} of threads, mappings and surrounding pages lost"
        )
    if books.unfollowed:
        said.append(f"starts and exits of threads that may have been missed: {books.unfollowed}")
    if books.kernel_at_least:
        said.append(f"the kernel may have counted more: {books.kernel_reason}")
    if books.missed and not books.blind:
        reason = books.missed_reason or "cause unknown"
        unseen = books.missed - books.blind_faults - books.under_way
        said.append(f"{_count(unseen, 'fault')} missed by the probe: {reason}")
    if books.unaccounted():
        said.append(f"the kernel counted {books.unaccounted():+d} faults that no row explains")
    for what, pages in (
        ("gained", books.gained_by.get("unknown", 0)),
        ("released", books.lost_by.get("unknown", 0)),
    ):
        if pages:
            said.append(f"{_count(pages, 'page')} {what}, cause unknown")
    if books.conflict:
        said.append(f"{_count(books.conflict, 'fault')} contradicted by pagemap")
    net = books.gained - books.given_up
    if books.mapped_change is not None and books.mapped_change != net:
        said.append(f"frames: {net:+d}, but mapped pages changed by {books.mapped_change:+d}")
    return said


def _check(budget: Budget, actual: int | None, bounds: Sequence[str]) -> Checked:
    """`bounds`: the figures that are at least what was counted."""
    unit = FIGURES[budget.figure]
    # Without faults there is no latency: that breaks nothing.
    unknown = actual is None and unit != Unit.TIME
    shown = _shown(actual, unit)
    broken = budget.broken_by(actual)
    if budget.figure in bounds and actual is not None:
        shown = f"at least {shown}"
        unknown = broken and budget.may_be_kept(actual)
    return Checked(budget.text, actual, shown, broken and not unknown, unknown)


def _shown(actual: int | None, unit: Unit) -> str:
    """Exact: a budget may be missed by one."""
    if actual is None:
        return "of no fault" if unit == Unit.TIME else "not known"
    if unit == Unit.TIME:
        return f"{actual} ns"
    return f"{actual} bytes" if unit == Unit.BYTES else str(actual)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
