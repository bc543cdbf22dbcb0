"""Two runs side by side: did the change help?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from tracer.common.units import clip, latency, size
from tracer.reporting.analysis import findings
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.analysis.functions import gained_by_function
from tracer.reporting.analysis.groups import NOTHING, Group, group
from tracer.reporting.reading.callstacks import Function
from tracer.reporting.reading.run import PAGE, Run
from tracer.reporting.text.overview import head, interval
from tracer.reporting.text.summary import notes, say, show
from tracer.reporting.text.tables import GLYPHS, Cell, Table, Tables, text

Key = TypeVar("Key")
_SAME_ORDER = "the same order"


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run: Run
    tables: Tables

    @property
    def total(self) -> Group:
        """All its faults."""
        return self.tables.total

    @property
    def most(self) -> int:
        """Pages mapped at most."""
        return max(self.tables.curve.pages.tolist(), default=0)

    def kinds(self) -> dict[str, Group]:
        """Its faults by kind."""
        kind = self.run.faults.kind
        groups = group(self.run.faults, kind.codes, len(kind.words))
        return dict(zip((word or "(not known)" for word in kind.words), groups, strict=True))

    def regions(self) -> dict[tuple[str, str], Group]:
        """Its faults by region and permissions."""
        return dict(zip(self.tables.region_keys, self.tables.by_region, strict=True))

    def order(self) -> list[tuple[str, str]]:
        """Regions in the order of their first fault."""
        regions = self.regions()
        return sorted(regions, key=lambda region: regions[region].first_ns)


def side(run: Run) -> Side:
    """A run made ready for comparison."""
    return Side(run, Tables(run, mapped(run), apart=False))


def print_diff(console: Console, before: Run, after: Run, most: int) -> None:
    """Heads, what changed in all, by kind, region and function, order of first touch, latency."""
    a, b = side(before), side(after)
    for letter, each in (("A", a), ("B", b)):
        top = head(each.run)
        say(console, Text(f"{letter}: {top.what}", "bold"), Text(f"   {top.counts}; {top.origin}"))
    for caution in cautions(before, after):
        say(console, Text(f"note: {caution}", "bold"))
    whole, *rest = tables(a, b)
    show(console, [whole], len(whole.rows))
    show(console, rest, most)
    notes(console, before)
    notes(console, after)


def tables(a: Side, b: Side) -> list[Table]:
    """What the two have in common and what not."""
    return [
        overall(a, b),
        _compared("By kind", ("KIND",), a.kinds(), b.kinds(), lambda key: (key,)),
        _compared(
            "By region",
            ("REGION", "PERMS"),
            a.regions(),
            b.regions(),
            lambda key: (key[0] or "(not known)", key[1]),
        ),
        *_functions(a, b),
        first_touch(a, b),
    ]


def cautions(before: Run, after: Run) -> list[str]:
    """What makes the runs hard to compare."""
    said = []
    for what in ("host", "kernel", "probe"):
        one, other = getattr(before.facts, what), getattr(after.facts, what)
        if one != other:
            said.append(f"{what} {one} in A, {other} in B: times may differ for that alone")
    if before.facts.left_out != after.facts.left_out:
        said.append("A and B have different filters")
    if (before.callstacks is None) != (after.callstacks is None):
        which = "A" if before.callstacks is None else "B"
        said.append(
            f"{which} has no call stacks, and functions cannot be compared: trace with --stacks"
        )
    lost = [letter for letter, run in (("A", before), ("B", after)) if run.facts.lost]
    if lost:
        said.append(f"events were lost in {' and '.join(lost)}: there were more faults than shown")
    return said


def overall(a: Side, b: Side) -> Table:
    """One line a figure."""
    table = Table("Total", ["", "A", "B", "CHANGE", "%"], frozenset([""]))
    huge_a, huge_b = findings.coverage(a.run.faults), findings.coverage(b.run.faults)

    def add(name: str, one: float, other: float, shown: Callable[[float], str]) -> None:
        table.rows.append([text(name), *_change(one, other, shown)])

    add("interval", a.run.seconds, b.run.seconds, interval)
    add("faults", a.total.faults, b.total.faults, _count)
    add("major faults", a.total.major, b.total.major, _count)
    add("pages gained", a.total.gained, b.total.gained, _count)
    add("memory gained", a.total.gained * PAGE, b.total.gained * PAGE, _bytes)
    add("mapped peak", a.most * PAGE, b.most * PAGE, _bytes)
    peaks = [each.run.facts.book("resident_peak") for each in (a, b)]
    if peaks[0] is not None and peaks[1] is not None:
        add("resident peak, at least", peaks[0] * PAGE, peaks[1] * PAGE, _bytes)
    add("in huge pages", huge_a.huge * PAGE, huge_b.huge * PAGE, _bytes)
    add("regions", len(a.tables.region_keys), len(b.tables.region_keys), _count)
    for name in ("p50", "p90", "p99", "longest", "total"):
        label = {"longest": "longest fault", "total": "time in faults"}.get(name, f"latency {name}")
        one, other = getattr(a.total.latency, name), getattr(b.total.latency, name)
        add(label, one, other, lambda value: latency(int(value), GLYPHS))
    return table


def _compared(
    title: str,
    names: Sequence[str],
    a: dict[Key, Group],
    b: dict[Key, Group],
    name_of: Callable[[Key], Sequence[str]],
) -> Table:
    """A row for each key of either; the largest change in faults first."""
    columns = ["FAULTS A", "FAULTS B", "CHANGE", "%", "GAINED A", "GAINED B", "P50 A", "P50 B"]
    table = Table(title, [*names, *columns, "P99 A", "P99 B"], frozenset(names))

    def size_of(key: Key) -> tuple[int, int]:
        one, other = a.get(key, NOTHING).faults, b.get(key, NOTHING).faults
        return -abs(other - one), -one - other

    for key in sorted({**a, **b}, key=size_of):
        one, other = a.get(key, NOTHING), b.get(key, NOTHING)
        figures = (
            *(one.latency.p50, other.latency.p50),
            *(one.latency.p99, other.latency.p99),
        )
        table.rows.append(
            [
                *(text(word) for word in name_of(key)),
                *_change(one.faults, other.faults, _count),
                Cell(f"{one.gained:,}", one.gained),
                Cell(f"{other.gained:,}", other.gained),
                *(Cell(latency(value, GLYPHS), value) for value in figures),
            ]
        )
    return table


def _functions(a: Side, b: Side) -> list[Table]:
    if a.run.callstacks is None or b.run.callstacks is None:
        return []
    return [by_function(gained_by_function(a.run), gained_by_function(b.run))]


def by_function(a: dict[Function, int], b: dict[Function, int]) -> Table:
    """Pages gained as each function itself ran; the largest change first."""
    table = Table(
        "By function",
        ["FUNCTION", "MODULE", "GAINED A", "GAINED B", "CHANGE", "%"],
        frozenset(("FUNCTION", "MODULE")),
        note="memory gained by faults in the function itself, without callees",
    )

    def size_of(function: Function) -> tuple[int, int, Function]:
        one, other = a.get(function, 0), b.get(function, 0)
        return -abs(other - one), -one - other, function

    for function in sorted({**a, **b}, key=size_of):
        one, other = a.get(function, 0) * PAGE, b.get(function, 0) * PAGE
        cells = [text(function.name), text(function.module)]
        table.rows.append([*cells, *_change(one, other, _bytes)])
    return table


def first_touch(a: Side, b: Side) -> Table:
    """The order in which regions were touched first, and which moved."""
    order_a, order_b = a.order(), b.order()
    rank_a = {region: at for at, region in enumerate(order_a, 1)}
    rank_b = {region: at for at, region in enumerate(order_b, 1)}
    both = [region for region in order_a if region in rank_b]
    moved = sum(
        one != other
        for one, other in zip(both, [p for p in order_b if p in rank_a], strict=True)
    )  # fmt: skip
    table = Table(
        "First touch",
        ["# A", "# B", "ORDER A", "ORDER B", "REGION", "PERMS"],
        frozenset(("ORDER A", "ORDER B", "REGION", "PERMS")),
        note=f"{len(both)} regions in both: "
        + (f"{moved} in a different position" if moved else _SAME_ORDER),
    )
    words = [_words(each) for each in (a, b)]
    for region in [*order_b, *(region for region in order_a if region not in rank_b)]:
        ranks = (rank_a.get(region), rank_b.get(region))
        table.rows.append(
            [
                *(Cell(str(rank) if rank else GLYPHS.none, rank or 0) for rank in ranks),
                *(text(each.get(region, "")) for each in words),
                text(region[0] or "(not known)"),
                text(region[1]),
            ]
        )
    return table


def _words(each: Side) -> dict[tuple[str, str], str]:
    steps = (found.word for found in each.tables.steps)
    return dict(zip(each.tables.region_keys, steps, strict=True))


def _change(one: float, other: float, shown: Callable[[float], str]) -> list[Cell]:
    """Both, the difference, and how much that is of the first."""
    difference = other - one
    sign = "+" if difference > 0 else GLYPHS.minus if difference < 0 else ""
    if one < 0 or other < 0:  # a latency that is not known
        part, change = GLYPHS.none, GLYPHS.none
    else:
        change = sign + shown(abs(difference))
        part = f"{sign}{abs(difference) / one:.1%}" if one else GLYPHS.none
    return [
        Cell(clip(shown(one), 24, GLYPHS), one),
        Cell(clip(shown(other), 24, GLYPHS), other),
        Cell(change, difference),
        Cell(part, difference / one if one else 0.0),
    ]


def _count(value: float) -> str:
    return f"{int(value):,}"


def _bytes(value: float) -> str:
    return size(int(value))
