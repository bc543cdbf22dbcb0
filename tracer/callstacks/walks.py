"""Walks by unwind rules: the kernel's, checked, and what a copy of the stack adds to them."""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tracer.callstacks.frame_pointers import Frames
from tracer.callstacks.kernel_rules import Program, value_of
from tracer.callstacks.learning import Learner, Rules
from tracer.callstacks.locations import Location, Locator, Owner
from tracer.callstacks.records import Raw
from tracer.callstacks.unwinding import NO_CALL, Copy, End, rule_of, walk
from tracer.symbolizing.rule import Cfa, Rule
from tracer.wire.shared import STACK_USER

_FRAME = Rule(Cfa.FRAME)
_CFA_SHIFT = 48  # kernel_rules.value_of


class Walked(NamedTuple):
    """A walk by all that is known now."""

    frames: Frames
    end: End
    sure: bool  # no more will be known
    loops: list[int]  # which frame is each call of Python's evaluation loop; -1: not known


class _Check(NamedTuple):
    """A frame by which the kernel walked on, or ended, and what its code says of it."""

    number: int  # of the frame, from the innermost on
    address: int
    location: Location
    exact: bool
    used: int  # the rule that the kernel used (kernel_rules.value_of)


@dataclass(slots=True)
class Walk:
    """A walk as the kernel ended it, and the copy from its last frame on, if one is needed."""

    number: int  # the kernel's
    owner: Owner
    program: Program | None
    frames: Frames
    end: End
    checks: list[_Check] = field(default_factory=list)  # that are left
    copy: Copy | None = None
    code: dict[int, Location] = field(default_factory=dict)  # on the copy, by return address
    missing: Location | None = None  # whose rule is not known
    # Calls of Python's evaluation loop (records.RawPython.loops), as far as they are known.
    loops: list[tuple[int, int]] = field(default_factory=list)


class Walks:
    """Checks walks by rules, and finishes them by copies."""

    def __init__(self, locator: Locator, rules: Rules, learner: Learner) -> None:
        self._locator = locator
        self._rules = rules
        self._learner = learner
        self._kernel = learner.installed

    def drop(self, number: int) -> None:
        """Forget the copy of a stack, by the kernel's number of it: it is known without."""
        self._learner.pop(number)

    def begin(
        self, number: int, raw: Raw, owner: Owner, loops: Iterable[tuple[int, int]] = ()
    ) -> Walk:
        """A stack by its addresses; calls come in order of time, as Spaces.code.

        `loops` as of RawPython.
        """
        self._learner.tend()
        program = self._kernel.program(raw.program)
        made = Walk(number, owner, program, [], raw.end, loops=list(loops))
        copy = self._learner.pop(number) if raw.end == End.NO_RULE else None
        ips, exact, in_kernel = raw.user.tolist(), True, len(raw.kernel) > 0
        for index, ip in enumerate(ips):
            location, runs = self._locator.at(owner, ip, returns=not exact)
            last = index == len(ips) - 1
            if not runs and in_kernel and not index:
                # In exec: the program that called it is gone, and the kernel's frames are all.
                made.end = End.NOT_WALKED
                return made
            if not runs and index and last:
                made.end = End.NO_CALLER
                return made
            # The call is before the address to which it returns, as a system call's is.
            named = location if index or not in_kernel else replace(location, returns=True)
            made.frames.append((ip, named))
            if last and made.end in (End.NO_RULE, End.LIMIT):
                break
            used = self._kernel.used(program, ip, exact=exact) if program is not None else None
            if used is None:  # it was removed since: nobody knows what it said
                made.end = End.REPLACED
                return made
            if location.name:  # else it is not known what was mapped there
                made.checks.append(_Check(index, ip, location, exact, used))
            exact = used >> _CFA_SHIFT & 0xFF == Cfa.SIGNAL
        self._check(made)
        if made.end == End.NO_RULE:
            self._unwind(made, copy)
        return made

    def lacking(self, walk_: Walk) -> list[Location]:
        """The locations whose rules are to be asked for, to check and to finish a walk."""
        wanted = [each.location for each in walk_.checks]
        if walk_.copy is not None and not self.now(walk_).sure:
            wanted += walk_.code.values()
            wanted += [walk_.missing] if walk_.missing is not None else []
        return wanted

    def now(self, walk_: Walk) -> Walked:
        """The frames as far as they can be followed."""
        self._learner.tend()
        self._check(walk_)
        sure = not walk_.checks
        if walk_.copy is None:
            return Walked(walk_.frames, walk_.end, sure, [at for _, at in walk_.loops])
        known: dict[tuple[int, bool], Location] = {}

        def rule_at(ip: int, exact: bool) -> Rule | None:
            location = walk_.code.get(ip)
            if location is None:
                return NO_CALL
            location = known[ip, exact] = replace(location, returns=not exact)
            rule = self._rule(location, exact)
            walk_.missing = location if rule is None else None
            return rule

        frames, end, sps = walk(walk_.copy, rule_at, STACK_USER - len(walk_.frames) + 1)
        loops = [at for _, at in _placed(walk_, sps)]
        return Walked(_joined(walk_, frames, known), end, sure and end != End.NO_RULE, loops)

    def _check(self, walk_: Walk) -> None:
        """Compare the rules that the kernel used with those of the code, as far as these are known.

        Where they differ the frames after that are none, and no copy from the last on is of use.
        """
        left = []
        for check in walk_.checks:
            rule = self._rule(check.location, check.exact)
            if rule is None:
                left.append(check)
                continue
            if value_of(rule) != check.used:
                self._learner.replaced(check.location, exact=check.exact, rule=rule)
            last = check.number == len(walk_.frames) - 1
            if value_of(rule) == check.used and (rule is not NO_CALL or last):
                if rule is NO_CALL and check.number:
                    walk_.frames.pop()
                continue
            if rule is NO_CALL and check.number:
                # No return address: the kernel went on by the page's rule, or by an earlier one.
                del walk_.frames[check.number :]
                walk_.end = End.NO_CALLER
            else:
                if walk_.program is not None:
                    self._kernel.replace(walk_.program, check.address, walk_.owner.tgid)
                del walk_.frames[check.number + 1 :]
                walk_.end = End.REPLACED
            left = [each for each in left if each.number < check.number]
            walk_.copy = None
            break
        walk_.checks = left

    def _unwind(self, made: Walk, copy: Copy | None) -> None:
        """Follow a copy; it is kept only where a rule is not known yet."""
        if copy is None:
            made.end = End.NO_COPY
            return
        known: dict[tuple[int, bool], Location] = {}

        def rule_at(ip: int, exact: bool) -> Rule | None:
            location, runs = self._locator.at(made.owner, ip, returns=not exact)
            known[ip, exact] = location
            return self._rule(location, exact) if runs else NO_CALL

        frames, end, sps = walk(copy, rule_at, STACK_USER - len(made.frames) + 1)
        if end == End.NO_RULE or made.checks:
            made.copy = copy
            made.code.update(self._locator.code_among(made.owner, copy.words()))
            first, runs = self._locator.at(made.owner, copy.ip, returns=True)
            if runs:
                made.code[copy.ip] = first
            return
        if made.program is not None:
            found = [(ip, exact, known[ip, exact]) for ip, exact in frames]
            self._learner.learn(made.program, found)
        made.loops = _placed(made, sps)
        made.frames, made.end = _joined(made, frames, known), end

    def _rule(self, location: Location, exact: bool) -> Rule | None:
        """None: not known yet, or nothing is known of the memory."""
        if location.tgid:  # JIT-compiled: by frame pointers
            return _FRAME
        if not self._rules.has_rule(location):
            return None
        code = self._rules.code(location)
        return None if code is None else rule_of(code, exact=exact)


def _placed(walk_: Walk, sps: Sequence[int]) -> list[tuple[int, int]]:
    """The calls of the evaluation loop, with those on a copy, by its frames' stack pointers."""
    first = len(walk_.frames) - 1  # what the copy begins with
    placed = []
    for address, at in walk_.loops:
        above = bisect.bisect_right(sps, address) if at < 0 else 0
        # The last frame's end is not known.
        placed.append((address, first + above - 1 if 0 < above < len(sps) else at))
    return placed


def _joined(
    walk_: Walk, frames: list[tuple[int, bool]], known: dict[tuple[int, bool], Location]
) -> Frames:
    """The kernel's frames, and those after them, of which the first is its last."""
    if not frames:
        return walk_.frames[:-1] or walk_.frames
    return [*walk_.frames, *((ip, known[ip, exact]) for ip, exact in frames[1:])]
