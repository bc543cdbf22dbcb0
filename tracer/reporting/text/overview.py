"""A run in sentences: the head of every report, and what stands out."""

import os
from dataclasses import dataclass

from tracer.common.text import printable
from tracer.common.units import latency, size
from tracer.reporting.analysis import findings
from tracer.reporting.analysis.groups import largest
from tracer.reporting.reading.facts import UNKNOWN
from tracer.reporting.reading.run import PAGE, Run
from tracer.reporting.text.tables import GLYPHS, Tables


@dataclass(frozen=True)
class Head:
    """The head that every picture carries."""

    what: str
    origin: str
    counts: str

    @property
    def lines(self) -> list[str]:
        """All of it."""
        return [self.what, self.origin, self.counts]


def head(run: Run) -> Head:
    """Host, kernel, command, probe, faults, lost and interval, known or not."""
    facts = run.facts
    lost = f"lost {UNKNOWN}" if facts.lost is None else f"{facts.lost:,} lost"
    parts = [f"{plural(len(run.faults), 'fault')}", lost]
    if missed := facts.book("missed"):
        parts.append(f"{missed:,} missed")
    if facts.left_out:
        parts.append(f"filtered by {facts.left_out}")
    started = f" from {facts.started[:19].replace('T', ' ')} UTC" if facts.started else ""
    origin = f"host {facts.host}, kernel {facts.kernel}, probe {facts.probe}"
    what = facts.what
    if what == UNKNOWN:
        what = f"{printable(os.path.basename(run.path))} (command {UNKNOWN})"
    return Head(what, origin, f"{', '.join(parts)}; {interval(run.seconds)}{started}")


def interval(seconds: float) -> str:
    """A length of time, in significant digits."""
    return f"{seconds:.3f} s" if seconds < 100 else f"{seconds:,.1f} s"


def plural(number: int, word: str) -> str:
    """ "1 fault", "2,000 faults"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def sentences(tables: Tables) -> list[str]:
    """What happened, a sentence each."""
    run, total = tables.run, tables.total
    if not total.faults:
        return ["No fault was recorded."]
    said = [_gained(tables), *_where(tables), *_order(tables), *_huge(run), _time(tables)]
    return [*said, *_books(run)]


def _gained(tables: Tables) -> str:
    run, total = tables.run, tables.total
    text = (
        f"{plural(total.faults, 'fault')} brought {plural(total.gained, 'page')} "
        f"({size(total.gained * PAGE)}) in {interval(run.seconds)}"
    )
    if total.major:
        text += f"; {total.major:,} of them major (waited for I/O)"
    if len(tables.curve.pages):
        last = int(tables.curve.pages[-1])
        text += f". At the end {size(last * PAGE)} were mapped ({tables.curve.how})"
        text += _resident(run)
    return text + "."


def _resident(run: Run) -> str:
    """The distinct frames among those, where they were counted; else "" or that they were not."""
    resident, peak = run.facts.book("resident"), run.facts.book("resident_peak")
    if resident is None:
        return "; how much was resident is not known" if "resident" in run.facts.books else ""
    text = f", {size(resident * PAGE)} resident, each frame counted once"
    return text if peak is None else f"{text} (at its peak at least {size(peak * PAGE)})"


def _where(tables: Tables) -> list[str]:
    kind = tables.run.faults.kind
    counts = kind.counts()
    best = int(counts.argmax())
    region = next(largest(tables.by_region))
    name = tables.region_keys[region][0] or "an unknown region"
    part = tables.by_region[region].faults / tables.total.faults
    return [
        f"{counts[best] / counts.sum():.0%} were of kind {kind.words[best] or '(not known)'}; "
        f"{part:.0%} were in {name}, the most faulted of "
        f"{plural(sum(1 for _ in largest(tables.by_region)), 'region')}."
    ]


def _order(tables: Tables) -> list[str]:
    up, down, jumps = (
        sum(getattr(each, name) for each in tables.steps) for name in ("up", "down", "jumps")
    )
    total = up + down + jumps
    if total < 4:
        return []
    return [
        f"Within a region a thread's next new page was just above the last one in {up / total:.0%} "
        f"of all cases, just below in {down / total:.0%}, elsewhere in {jumps / total:.0%}: "
        f"{findings.Steps(up, down, jumps).word}."
    ]


def _huge(run: Run) -> list[str]:
    found = findings.coverage(run.faults)
    if not found.huge + found.small:
        return []
    text = f"Huge pages made up {found.share:.0%} of the anonymous memory that faults brought"
    if found.full_blocks:
        text += (
            f"; {plural(found.full_blocks, 'aligned block')} of 2 MiB "
            f"{'was' if found.full_blocks == 1 else 'were'} filled page by page"
        )
    return [text + "."]


def _time(tables: Tables) -> str:
    found = tables.total.latency
    if found.p50 < 0:
        return "No fault's latency is known."
    return (
        f"Latency: p50 {latency(found.p50, GLYPHS)}, p99 {latency(found.p99, GLYPHS)}, "
        f"max {latency(found.longest, GLYPHS)}; {latency(found.total, GLYPHS)} in total."
    )


def _books(run: Run) -> list[str]:
    facts = run.facts
    counted = facts.book("kernel")
    if counted is None:
        return []
    if facts.books.get("balanced") is True:
        return [f"The books balance: the kernel counted {plural(counted, 'fault')}."]
    traced = facts.book("traced") or 0
    return [
        f"The books do not balance: {plural(traced, 'fault')} traced, {counted:,} counted by the "
        f"kernel, {facts.lost or 0:,} lost, {facts.book('missed') or 0:,} missed, "
        f"{facts.book('conflict') or 0:,} in conflict with pagemap."
    ]
