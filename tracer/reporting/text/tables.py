"""The tables of a report, as text with the numbers behind it: a terminal and a page show the same.

Everything here is safe to show, but not yet escaped for HTML.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracer.common.pages import PAGE_SHIFT
from tracer.common.units import Glyphs, latency, size
from tracer.reporting.analysis import findings, functions
from tracer.reporting.analysis.curves import Curve, resident
from tracer.reporting.analysis.groups import Group, group, largest, regions, threads, whole
from tracer.reporting.analysis.stretches import split_regions
from tracer.reporting.reading.codes import combined
from tracer.reporting.reading.run import PAGE, Run

GLYPHS = Glyphs()
SLOWEST = 10


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number or text to sort by."""

    text: str
    value: float | str


@dataclass
class Table:
    """A title, columns, rows, and a sentence on what is left out or meant."""

    title: str
    columns: list[str]
    left: frozenset[str]  # columns of text; the others are numbers, on the right
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def top(self, most: int) -> "Table":
        """The first rows; the note says how many more there are."""
        if len(self.rows) <= most:
            return self
        more = f"{len(self.rows) - most:,} more"
        note = f"{more}; {self.note}" if self.note else more
        return Table(self.title, self.columns, self.left, self.rows[:most], note)


def text(words: str) -> Cell:
    """A name or a word; a dash where there is none."""
    return Cell(words or GLYPHS.none, words)


def count(number: int) -> Cell:
    """A number with separators."""
    return Cell(f"{number:,}", number)


def share(part: float) -> Cell:
    """A part of 1 in per cent."""
    return Cell(f"{part:.1%}", round(part, 6))


def duration(nanoseconds: int) -> Cell:
    """A latency; a dash where it is not known."""
    return Cell(latency(nanoseconds, GLYPHS), nanoseconds)


def moment(run: Run, time_ns: int) -> Cell:
    """Seconds since the start of the trace."""
    return Cell(f"{(time_ns - run.start_ns) / 1e9:.6f}", time_ns - run.start_ns)


def memory(pages: int) -> Cell:
    """Pages as bytes."""
    return Cell(size(pages * PAGE), pages)


_NUMBERS = ("FAULTS", "SHARE", "MAJOR", "GAINED", "GROSS", "P50", "P99", "MAX", "TIME IN FAULTS")


def _numbers(part: Group, total: Group) -> list[Cell]:
    return [
        count(part.faults),
        share(part.faults / max(1, total.faults)),
        count(part.major),
        count(part.gained),
        memory(part.gained),
        duration(part.latency.p50),
        duration(part.latency.p99),
        duration(part.latency.longest),
        duration(part.latency.total),
    ]


def _grouped(
    title: str,
    names: Sequence[str],
    groups: Sequence[Group],
    total: Group,
    name_of: Callable[[int], Sequence[str]],
) -> Table:
    table = Table(title, [*names, *_NUMBERS], frozenset(names))
    for at in largest(groups):
        table.rows.append([*(text(word) for word in name_of(at)), *_numbers(groups[at], total)])
    return table


class Tables:
    """The tables of one run; what several of them need is worked out once.

    `apart`: anonymous memory is split by address, which means nothing in another run.
    """

    def __init__(self, run: Run, curve: Curve, *, apart: bool = True) -> None:
        self.run = run
        self.curve = curve
        self.total = whole(run.faults)
        if apart:
            self.region_codes, self.region_keys, self.at_end = split_regions(run)
        else:
            (self.region_codes, self.region_keys), self.at_end = regions(run), {}
        self.by_region = group(run.faults, self.region_codes, len(self.region_keys))
        self.steps = findings.steps(run, self.region_codes, len(self.region_keys))

    def kinds(self) -> Table:
        """By what happened to the page."""
        kind = self.run.faults.kind
        groups = group(self.run.faults, kind.codes, len(kind.words))
        return _grouped(
            "By kind", ("KIND",), groups, self.total, lambda at: (kind.words[at] or "(not known)",)
        )

    def regions(self) -> Table:
        """By mapping; with how its pages were walked through."""
        table = _grouped(
            "By region",
            ("REGION", "PERMS"),
            self.by_region,
            self.total,
            lambda at: (self.region_keys[at][0] or "(not known)", self.region_keys[at][1]),
        )
        table.note = "GROSS: all that faults brought, counted again after each release"
        if self.run.pages is not None:
            table.columns.append("NET")
            table.note += "; NET: what has a frame at the end, from any source"
        table.columns.append("ORDER")
        table.left |= {"ORDER"}
        for row, at in zip(table.rows, largest(self.by_region), strict=True):
            if self.run.pages is not None:
                row.append(memory(self.at_end.get(self.region_keys[at], 0)))
            row.append(text(self.steps[at].word))
        return table

    def threads(self) -> Table:
        """By the thread that took the fault."""
        codes, found = threads(self.run)
        groups = group(self.run.faults, codes, len(found))

        def name(at: int) -> tuple[str, str]:
            pid, tid, comm = found[at]
            return comm or "(not known)", str(tid) if pid == tid else f"{pid}/{tid}"

        return _grouped("By thread", ("THREAD", "ID"), groups, self.total, name)

    def accesses(self) -> Table:
        """By access and cause."""
        access, cause = self.run.faults.access, self.run.faults.cause
        codes, pairs = combined((access.codes, len(access.words)), (cause.codes, len(cause.words)))
        groups = group(self.run.faults, codes, len(pairs))
        return _grouped(
            "By access",
            ("ACCESS", "CAUSE"),
            groups,
            self.total,
            lambda at: (access.words[pairs[at][0]], cause.words[pairs[at][1]]),
        )

    def first_touch(self) -> Table:
        """Regions in the order of their first fault."""
        table = Table(
            "First touch",
            ["#", "FIRST", "LAST", "FAULTS", "GAINED", "ORDER", "REGION", "PERMS"],
            frozenset(("ORDER", "REGION", "PERMS")),
            note="seconds since the start; ORDER: the direction in which each thread touched pages",
        )
        order = sorted(range(len(self.region_keys)), key=lambda at: self.by_region[at].first_ns)
        for number, at in enumerate(order, 1):
            part, (name, perms) = self.by_region[at], self.region_keys[at]
            table.rows.append(
                [
                    count(number),
                    moment(self.run, part.first_ns),
                    moment(self.run, part.last_ns),
                    count(part.faults),
                    count(part.gained),
                    text(self.steps[at].word),
                    text(name or "(not known)"),
                    text(perms),
                ]
            )
        return table

    def working_set(self, parts: int = 10) -> Table:
        """The interval in equal parts."""
        table = Table(
            "Working set over time",
            ["FROM", "TO", "FAULTS", "GAINED", "TOUCHED", "MAPPED"],
            frozenset(),
            note=f"TOUCHED: distinct pages that faulted; MAPPED: {self.curve.how}",
        )
        curves = [self.curve]
        if (counted := resident(self.run)) is not None:
            curves.append(counted)
            table.columns.append("RESIDENT")
            table.note += f"; RESIDENT: the last of {counted.how}"
        if not len(self.run.faults):
            return table
        slices = findings.working_set(self.run, parts)
        ends = np.array([each.end_ns for each in slices])
        levels = zip(*(curve.at(ends).tolist() for curve in curves), strict=True)
        for each, pages in zip(slices, levels, strict=True):
            table.rows.append(
                [
                    moment(self.run, each.start_ns),
                    moment(self.run, each.end_ns),
                    count(each.faults),
                    count(each.gained),
                    count(each.touched),
                    *(memory(level) for level in pages),
                ]
            )
        return table

    def latencies(self) -> Table:
        """The latency histogram, an octave a row."""
        table = Table("Latency", ["FROM", "FAULTS", "SHARE", ""], frozenset([""]))
        octaves = findings.octaves(self.run.faults.latency_ns)
        most = max((faults for _, faults in octaves), default=1)
        known = max(1, sum(faults for _, faults in octaves))
        for edge, faults in octaves:
            bar = bar_of(faults / most, 40)
            cells = [duration(edge), count(faults), share(faults / known), Cell(bar, faults)]
            table.rows.append(cells)
        if unknown := len(self.run.faults) - sum(faults for _, faults in octaves):
            table.note = f"{unknown:,} faults whose entry was not seen have no latency"
        return table

    def slowest(self, most: int = SLOWEST) -> Table:
        """The faults that took longest."""
        left = ("THREAD", "PAGE", "KIND", "ACCESS", "REGION")
        table = Table("Slowest faults", ["LATENCY", "AT", *left], frozenset(left))
        faults = self.run.faults
        for at in findings.slowest(faults, most).tolist():
            table.rows.append(
                [
                    duration(int(faults.latency_ns[at])),
                    moment(self.run, int(faults.time_ns[at])),
                    text(f"{faults.comm.words[faults.comm.codes[at]]}/{faults.tid[at]}"),
                    Cell(f"{int(faults.page[at]) << PAGE_SHIFT:#x}", float(faults.page[at])),
                    text(faults.kind.words[faults.kind.codes[at]]),
                    text(faults.access.words[faults.access.codes[at]]),
                    text(faults.region.words[faults.region.codes[at]]),
                ]
            )
        return table

    def functions(self) -> Table:
        """By the function that faulted; empty without call stacks."""
        columns = ["GAINED", "GROSS", "SHARE", "WITH CALLEES", "FAULTS", "TIME IN FAULTS"]
        table = Table(
            "By function",
            ["FUNCTION", "MODULE", *columns],
            frozenset(("FUNCTION", "MODULE")),
            note="memory gained by faults in the function itself, released since or not; WITH "
            "CALLEES: in those it called, too",
        )
        stacks = self.run.callstacks
        if stacks is None:
            return table
        by_stack = functions.by_stack(self.run, stacks)
        sums = functions.by_function(stacks, by_stack)
        callees = functions.with_callees(stacks, by_stack.gained).tolist()
        for at in np.lexsort((-sums.faults, -sums.gained)).tolist():
            if faults := int(sums.faults[at]):
                function, gained = stacks.functions[at], int(sums.gained[at])
                cells = [
                    text(function.name),
                    text(function.module),
                    count(gained),
                    memory(gained),
                    share(gained / max(1, self.total.gained)),
                    memory(callees[at]),
                    count(faults),
                    duration(int(sums.time_ns[at])),
                ]
                table.rows.append(cells)
        return table

    def stacks(self, most: int) -> Table:
        """The call stacks that gained most memory; empty without any."""
        table = Table(
            "Call stacks",
            ["GAINED", "GROSS", "SHARE", "FAULTS", "TIME IN FAULTS", "STACK"],
            frozenset(["STACK"]),
            note="innermost function first; GROSS: released since or not",
        )
        stacks = self.run.callstacks
        if stacks is None:
            return table
        alike, sums = functions.by_path(stacks, functions.by_stack(self.run, stacks))
        for at in np.lexsort((-sums.faults, -sums.gained)).tolist():
            if faults := int(sums.faults[at]):
                gained = int(sums.gained[at])
                brief = stacks.brief(alike[at]) if len(table.rows) < most else ""
                cells = [count(gained), memory(gained), share(gained / max(1, self.total.gained))]
                cells += [count(faults), duration(int(sums.time_ns[at])), text(brief)]
                table.rows.append(cells)
        return table

    def sources(self) -> Table:
        """Where the pages' first frames came from; empty without a pages file."""
        table = Table(
            "Pages by source", ["SOURCE", "PAGES", "BYTES", "GONE"], frozenset(["SOURCE"])
        )
        pages = self.run.pages
        if pages is not None:
            counts = pages.source.counts().tolist()
            gone = pages.source.counts(~pages.present).astype(np.int64).tolist()
            for at in sorted(range(len(counts)), key=lambda at: -counts[at]):
                if counts[at]:
                    cells = [count(counts[at]), memory(counts[at]), count(gone[at])]
                    table.rows.append([text(pages.source.words[at]), *cells])
            table.note = "how each page got its first frame; GONE: no frame at the end"
        return table


def bar_of(part: float, width: int) -> str:
    """A bar in eighths of a cell; whatever is there shows at least one."""
    eighths = max(round(part * width * 8), 1 if part > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]
