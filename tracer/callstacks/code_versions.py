"""Which function was at an address of JIT-compiled code, at the time of each fault.

A JIT compiler frees code and compiles other functions in its place, so an address has several
names in a run. They come from the process's perf map, by what was in it when
(tracer.symbolizing.perf_maps); where that leaves more than one, a fault has none of them.
docs/decisions/0014-perf-maps.md has the rule.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from tracer.callstacks.jit_names import JitName, jit_name
from tracer.callstacks.locations import Location
from tracer.common.fields import runs
from tracer.common.types import U64, Ids
from tracer.symbolizing.history import Change, Period
from tracer.symbolizing.perf_maps import PerfMaps

REPLACED = "another function was compiled at its address about then"

Code = tuple[int, int]  # process and address
Versions = Mapping[Code, int]


@dataclass(frozen=True, slots=True)
class Version:
    """What was at an address for a time: `name` None: nothing that the map lists, or `several`."""

    name: JitName | None = None
    into: int = field(default=0, compare=False)  # bytes into the function
    several: bool = False


NOTHING = Version()
SEVERAL = Version(several=True)


class Numbered(Protocol):
    """Stacks as they are numbered (tracer.callstacks.stacks.Stacks)."""

    def made(self, number: int) -> Sequence[Code]:
        """The JIT-compiled code in a stack, without repetition."""

    def variant(self, number: int, versions: Versions) -> int:
        """The stack with these versions of its code, 0 for all others; 0 where there is no room."""


@dataclass(slots=True)
class _History:
    """An address by time: from each of `bounds_ns` on, exclusive, what is in `steps`."""

    changes: int  # that went into it
    bounds_ns: list[int]
    steps: list[Version]  # one more than bounds
    plain: bool  # there was only ever one

    def at(self, first_ns: int, last_ns: int) -> Version:
        """What was there in that period, both ends included."""
        begin = bisect_left(self.bounds_ns, first_ns)
        end = bisect_left(self.bounds_ns, last_ns)
        return _one_of(self.steps[begin : end + 1])


def history_of(changes: Sequence[Change], periods: Sequence[Period]) -> _History:
    """A history out of what a map listed at each check, and when these were."""
    bounds, steps, now = [], [NOTHING], NOTHING
    for period, group in groupby(changes, key=lambda change: periods[change[0] - 1]):
        found = [_version(name, into) for _, name, into in group]
        # Code is listed before it runs: what ran between the checks was listed by the second.
        listed = [each for each in (now, *found) if each != NOTHING]
        steps.append(_one_of(listed or [NOTHING]))
        now = found[-1]
        steps.append(now)
        bounds += [period.before_ns, period.by_ns]
    plain = all(each == steps[-1] for each in steps[1:]) and bounds[:1] <= [0]
    return _History(len(changes), bounds, steps, plain)


def _version(name: str, into: int) -> Version:
    return Version(jit_name(name), into) if name else NOTHING


def _one_of(versions: Sequence[Version]) -> Version:
    """What all are; the last of them, since that says how far into it the address is now."""
    return versions[-1] if all(each == versions[0] for each in versions) else SEVERAL


class CodeVersions:
    """The functions of a run's JIT-compiled code, by version.

    A fault may be numbered before the map was read that says what it met. It gets the version
    that was known last, and that is judged later, by the times of all such faults.
    """

    def __init__(self, perf_maps: PerfMaps, wait: Callable[[], object]) -> None:
        """`wait`: wait briefly for what was asked."""
        self._perf_maps = perf_maps
        self._wait = wait
        self._histories: dict[Code, _History] = {}
        self._versions: dict[Code, list[Version | None]] = {}  # None: not known yet
        self._made: dict[int, Sequence[Code]] = {}  # by stack
        self._used: dict[int, tuple[int, int]] = {}  # when, by stack: first and last
        # By process: versions, and the times of their faults that are to be judged.
        self._open: dict[int, dict[tuple[Code, int], tuple[int, int]]] = {}

    def name(self, location: Location) -> tuple[JitName, int] | None:
        """The function at a location, and how far into it; None where not known."""
        code = code_of(location)
        self._judge(code[0])
        versions = self._versions.get(code)
        version = versions[location.version] if versions is not None else None
        if versions is None:  # nobody has numbered it: what is there now
            self._perf_maps.ask(code[0], [code[1]])
            history = self._history(code)
            version = history.steps[-1] if history is not None else None
        if version is None or version.name is None:
            return None
        return version.name, version.into

    def why(self, location: Location) -> str:
        """Why a location has no name, if there is a reason."""
        code = code_of(location)
        if why := self._perf_maps.failed.get(code[0], ""):
            return f"the perf map of its process was given up: {why}"
        versions = self._versions.get(code)
        return REPLACED if versions and versions[location.version] == SEVERAL else ""

    def settled(self, location: Location) -> bool:
        """Whether that is final."""
        tgid, address = code_of(location)
        self._judge(tgid)
        return self._perf_maps.ended(tgid, address) and not self._open.get(tgid)

    def again(self, *, last: bool = False) -> None:
        """Check the maps; cheap, for a loop. `last`: the processes may end any moment."""
        if last:
            self._perf_maps.hurry()
        for tgid in [tgid for tgid, faults in self._open.items() if faults]:
            self._perf_maps.ask(tgid, ())
            self._judge(tgid)

    def conclude(self) -> None:
        """Judge what is open, once all is answered that was asked when the trace was over."""
        self._perf_maps.conclude()
        for tgid in list(self._open):
            self._judge(tgid)

    def give_up(self) -> None:
        """Judge what is open by what is known now: it stays so."""
        for tgid in list(self._open):
            self._judge(tgid, now=True)

    # -- numbering ----------------------------------------------------------------------------

    def split(self, numbers: Ids, times_ns: U64, stacks: Numbered) -> Ids:
        """The faults' stacks with the versions of their code; shapes (n,)."""
        order = np.argsort(numbers, kind="stable")
        heads = runs(numbers[order])
        met = {}
        for number, begin, end in zip(
            numbers[order][heads].tolist(),
            heads.tolist(),
            [*heads[1:].tolist(), len(order)],
            strict=True,
        ):
            if number not in self._made:
                self._made[number] = stacks.made(number)
            if self._made[number]:
                met[number] = order[begin:end]
        if not met:
            return numbers
        self._update(met, int(times_ns.max()))
        result = numbers.copy()
        for number, where in met.items():
            result[where] = self._split(number, times_ns[where], stacks)
        return result

    def revised(self, number: int, stacks: Numbered) -> None:
        """Note that a stack's frames are others now."""
        if number not in self._made:
            return
        before, self._made[number] = self._made[number], stacks.made(number)
        if number in self._used and set(self._made[number]) - set(before):
            for code in set(self._made[number]) - set(before):
                self._versions.setdefault(code, [None])
                self._perf_maps.ask(code[0], [code[1]])
                self._leave_open(code, 0, *self._used[number])

    def _update(self, met: Mapping[int, object], last_ns: int) -> None:
        """Have the histories of what was met, up to its last fault if that takes a moment."""
        wanted: dict[int, list[int]] = {}
        for number in met:
            for code in self._made[number]:
                addresses = wanted.setdefault(code[0], [])
                if code not in self._versions:
                    self._versions[code] = [None]
                    addresses.append(code[1])
        for tgid, addresses in wanted.items():
            self._perf_maps.ask(tgid, addresses, last_ns)
        if any(self._perf_maps.asking(tgid) for tgid in wanted):
            self._wait()
        for tgid in wanted:
            self._judge(tgid)

    def _split(self, number: int, times_ns: U64, stacks: Numbered) -> Ids | int:
        codes = self._made[number]
        first, last = int(times_ns.min()), int(times_ns.max())
        used = self._used.get(number, (first, last))
        self._used[number] = min(first, used[0]), max(last, used[1])
        changed = [
            (code, history)
            for code in codes
            if (history := self._history(code)) is not None and not history.plain
        ]
        until = self._perf_maps.known_until(codes[0][0])
        if not changed:
            self._leave_open_after(until, codes, (0,) * len(codes), first, last)
            return number
        columns = np.zeros((len(times_ns), len(codes)), np.int64)
        for code, history in changed:
            at = np.searchsorted(np.array(history.bounds_ns, np.int64), times_ns.astype(np.int64))
            distinct, inverse = np.unique(at, return_inverse=True)
            each = [self._number(code, history.steps[step]) for step in distinct.tolist()]
            columns[:, codes.index(code)] = np.array(each)[inverse]
        rows, inverse = np.unique(columns, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        found = []
        for index, row in enumerate(map(tuple, rows.tolist())):
            mine = times_ns[inverse == index]
            self._leave_open_after(until, codes, row, int(mine.min()), int(mine.max()))
            versions = {code: each for code, each in zip(codes, row, strict=True) if each}
            found.append(stacks.variant(number, versions) if versions else number)
        return np.array(found, np.uint32)[inverse]

    def _number(self, code: Code, version: Version) -> int:
        """The number of an address's version. The first may stand for faults not judged yet."""
        versions = self._versions[code]
        if versions[0] is None and (code, 0) not in self._open.get(code[0], {}):
            versions[0] = version
        if version not in versions:
            versions.append(version)
        return versions.index(version)

    # -- judging ------------------------------------------------------------------------------

    def _leave_open_after(
        self, until: int, codes: Sequence[Code], versions: Sequence[int], first: int, last: int
    ) -> None:
        """Those faults are to be judged by what is not known yet, unless all of that is."""
        for code, version in zip(codes, versions, strict=True):
            if last > until or self._versions[code][version] is None:
                self._leave_open(code, version, first, last)

    def _leave_open(self, code: Code, version: int, first: int, last: int) -> None:
        there = self._open.setdefault(code[0], {})
        before = there.get((code, version), (first, last))
        there[code, version] = min(first, before[0]), max(last, before[1])

    def _judge(self, tgid: int, *, now: bool = False) -> None:
        """Judge the faults up to which the map is known, or all."""
        there = self._open.get(tgid)
        if not there:
            return
        until = self._perf_maps.known_until(tgid)
        now = now or tgid in self._perf_maps.failed
        for (code, version), (first, last) in list(there.items()):
            history = self._history(code) if last <= until else None
            if history is not None or now:
                del there[code, version]
                found = history.at(first, last) if history is not None else None
                self._confirm(code, version, found)

    def _confirm(self, code: Code, version: int, found: Version | None) -> None:
        """Compare a version with what its faults have met; None: that is not known."""
        before = self._versions[code][version]
        if before is None:
            self._versions[code][version] = found or NOTHING
        elif before != found:
            self._versions[code][version] = SEVERAL

    def _history(self, code: Code) -> _History | None:
        changes = self._perf_maps.history(*code)
        if changes is None:
            return None
        known = self._histories.get(code)
        if known is None or known.changes != len(changes):
            known = history_of(changes, self._perf_maps.periods(code[0]))
            self._histories[code] = known
        return known


def code_of(location: Location) -> Code:
    """The process and address to look up: a call is before its return address."""
    return location.tgid, location.address - location.returns
