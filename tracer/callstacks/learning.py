"""Learns the unwind rules that the kernel lacks, from the copies of stacks that it sends.

Each word of a copy that lies in executable memory may be a return address. The rules of all of them
are asked for at once, as soon as the copy comes, and the kernel gets them as they are answered: it
sends a copy for each stack that it cannot walk, so that haste saves copies. What a copy says is
unwound later, when its fault is joined (stacks.py).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tracer.callstacks.file_rules import FileRules
from tracer.callstacks.kernel_rules import KernelRules, Program, value_of
from tracer.callstacks.locations import VDSO, Location, file_with_code, is_made
from tracer.callstacks.mapped_code import MappedCode
from tracer.callstacks.python_code import Codes, is_code
from tracer.callstacks.python_runtimes import PythonRuntimes, Runtimes
from tracer.callstacks.records import Part, copy_of, ends_at, part_of, words_of
from tracer.callstacks.unwinding import NO_CALL, Copy, rule_of
from tracer.common.errors import TraceError
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.wire.copies import CopyRing

_MOST_BYTES = 1 << 26  # of copies whose faults are not joined yet
_MOST_PROGRAMS = 4096
# A process's mappings are read so often at most: a tenth of the time goes there.
_AGAIN_NS, _TIMES = 5_000_000, 10
_TURN_NS = 1_000_000  # while other work is done, copies are read so often
_NEVER = 1 << 63
_PREPARED_S = 0.05  # what a command waits for at most, before its first instruction
_MOST_MISSING = 1 << 16
_ByNumber = dict[int, list[tuple[int, int]]]  # rules by key, by the number they are for
_FRAME, _NO_CALL = value_of(Rule(Cfa.FRAME)), value_of(NO_CALL)


class Rules(Runtimes, Protocol):
    """Source of unwind rules, and of what is a CPython; FrameNames is one."""

    def ask_rules(self, locations: Iterable[Location]) -> None:
        """Request what `code` will be asked for; wait briefly for answers."""

    def ask_codes(self, files: dict[int, list[int]], wait_s: float) -> None:
        """The same of offsets, by file; wait so long for answers."""

    def code(self, location: Location) -> CodeRule | None:
        """What is known of the code there; None: nothing, or not yet."""

    def code_at(self, file: int, offset: int) -> CodeRule | None:
        """The same at an offset of a file; 0: one that is not known."""

    def has_rule(self, location: Location) -> bool:
        """Whether the answer of `code` is final."""


class _Asked(NamedTuple):
    program: Program
    address: int
    exact: bool
    file: int  # locations.file_with_code
    offset: int  # of the address in it
    led: bool = True  # a walk came there; else it is a word, which may be anything

    @property
    def looked_up(self) -> int:
        """The offset to look up: a call is before its return address."""
        return self.offset - (not self.exact)


class Learner:
    """The copies of stacks of a run, and the rules learned from them."""

    def __init__(
        self,
        ring: CopyRing,
        installed: KernelRules,
        rules: Rules,
        mappings: Callable[[int], Sequence[Mapping]],
    ) -> None:
        """`mappings`: those of a process, executable ones with their files' numbers."""
        self.installed = installed
        self.dropped = 0  # copies for which there was no room here
        self._ring = ring
        self._rules = rules
        self._mappings = mappings
        self._copies: dict[int, list[bytes]] = {}  # parts by the kernel's number
        self._bytes = 0  # of them
        # Frames without a rule seen so far, and the first stack that lacked it, by its number
        self._missing: dict[tuple[int, ...], int] = {}
        self._codes: dict[int, MappedCode] = {}  # by the number of its libraries
        self._known: dict[int, set[int]] = {}  # keys asked for, by the number they are for
        self._waiting: list[_Asked] = []  # not answered yet
        self._led: set[int] = set()  # keys: walks came there while answers were waited for
        self._took_ns = 0  # to read a process's mappings, the last time
        self.files = FileRules()
        self._turned_ns = 0  # CLOCK_MONOTONIC: the last turn
        self.codes = Codes()  # of Python
        self.pythons: PythonRuntimes | None = None
        installed.forget = self._forget

    @property
    def fd(self) -> int:
        """Readable when there are copies."""
        return self._ring.fd

    def tend(self) -> None:
        """`turn`, where the last was a while ago: for what takes long."""
        if time.monotonic_ns() > self._turned_ns + _TURN_NS:
            self.turn()

    def turn(self, wait_s: float = 0.0) -> None:
        """Read the copies there are, and install what is known by now; cheap if there is nothing.

        `wait_s`: so long it waits for answers, where some are missing.
        """
        for parts in self._ring.read():
            wanted = self._wanted(self._receive(parts))
            if wanted or self._waiting:
                self._rules.ask_codes(wanted, 0.0)
                self._install()
        if self._waiting:
            self._rules.ask_codes({}, wait_s)
            self._install()
        if self.pythons is not None:
            self.pythons.turn()
        self._turned_ns = time.monotonic_ns()

    def prepare(self) -> None:
        """Wait briefly for what the first instructions of a command need: is it a CPython?"""
        self._rules.ask_codes({}, _PREPARED_S)
        if self.pythons is not None:
            self.pythons.turn()

    def pop(self, number: int) -> Copy | None:
        """The copy of a stack, by the kernel's number of it; it is not kept."""
        parts = self._forget_copy(number)
        return copy_of(parts) if parts else None

    def _forget_copy(self, number: int) -> list[bytes]:
        parts = self._copies.pop(number, [])
        self._bytes -= sum(len(part) for part in parts)
        return parts

    def learn(self, program: Program, found: Iterable[tuple[int, bool, Location]]) -> None:
        """Give the kernel the rules, known by now, of addresses that a copy led to."""
        rules: _ByNumber = {}
        for address, exact, location in found:
            if location.tgid:
                rules.setdefault(program.own, []).append((program.own_page_key(address), _FRAME))
                continue
            key = program.key(address, exact=exact)
            known = self._known.setdefault(program.number(address), set())
            asked = _Asked(program, address, exact, location.file_with_code, location.offset)
            if key not in known and self._rules_of(asked, rules):
                known.add(key)
        self._add(rules)

    def replaced(self, location: Location, *, exact: bool, rule: Rule) -> None:
        """The kernel has walked by another rule than this one, which the code itself has."""
        self.files.compare(location.file, location.offset, exact=exact, rule=rule)

    def close(self) -> None:
        """Close the ring. Files of processes are let go of as well, now and not when it is due."""
        self._ring.close()
        self._turned_ns = _NEVER
        self.installed.forget = lambda number: None

    def _receive(self, parts: list[bytes]) -> list[bytes]:
        """Keep copies, and parts of them; those that end at a frame that none has ended at yet."""
        copies, missing, lacking = self._copies, self._missing, []
        for part in parts:
            if is_code(part):
                self.codes.receive(part)
                continue
            stack, offset, *frame = ends_at(part)
            if offset:  # without those before it is of no use
                if stack in copies:
                    copies[stack].append(part)
                    self._bytes += len(part)
            else:
                if stack in copies:  # it was sent again
                    self._forget_copy(stack)
                copies[stack] = [part]
                self._bytes += len(part)
            if missing.setdefault(tuple(frame), stack) == stack:
                lacking.append(part)
        while self._bytes > _MOST_BYTES:  # nobody may want the oldest: their faults were dropped
            self._forget_copy(next(iter(copies)))
            self.dropped += 1
        if len(missing) > _MOST_MISSING:
            missing.clear()
        return lacking

    def _wanted(self, parts: Iterable[bytes]) -> dict[int, list[int]]:
        """The offsets, by file, whose rules are to be asked for."""
        wanted: dict[int, list[int]] = {}
        alike: dict[int, tuple[Program, MappedCode, list[bytes]]] = {}
        rules: _ByNumber = {}
        for part in parts:
            head = part_of(part)
            program = self.installed.program(head.program)
            if program is None:
                continue
            known = self._known.setdefault(program.number(head.ip), set())
            exact = bool(head.exact)
            key = program.key(head.ip, exact=exact)
            if not head.offset and key in known:
                if self._waiting:
                    self._led.add(key)  # if it was a word alone so far
                continue
            code = self._code(head, program)
            if code is None:
                self._missing.pop((head.program, head.ip, head.exact), None)  # the next one may say
                continue
            alike.setdefault(program.own, (program, code, []))[2].append(part)
            if head.offset:
                continue
            which = code.at(head.ip)
            if which >= 0:
                self._ask(program, code.mappings[which], (head.ip, exact, True), wanted, rules)
            elif code.is_since(program, head.time_ns) and not exact:
                # The last frame's, and its own mappings were read since: data.
                known.add(key)
                rules.setdefault(program.number(head.ip), []).append((key, _NO_CALL))
            else:
                self._missing.pop((head.program, head.ip, head.exact), None)
        for program, code, some in alike.values():
            words, which_of = code.among(np.concatenate([words_of(part) for part in some]))
            for address, which in zip(words.tolist(), which_of.tolist(), strict=True):
                word = address, False, False
                self._ask(program, code.mappings[which], word, wanted, rules)
        self._add(rules)
        return wanted

    def _ask(
        self,
        program: Program,
        mapping: Mapping,
        found: tuple[int, bool, bool],
        wanted: dict[int, list[int]],
        rules: _ByNumber,
    ) -> None:
        """Ask for the rule of an address, where nobody has; add what needs no question.

        `found`: address, exact and led, as of _Asked.
        """
        name, (address, exact, led) = mapping.name, found
        if is_made(name):
            rules.setdefault(program.own, []).append((program.own_page_key(address), _FRAME))
            return
        key = program.key(address, exact=exact)
        # It may have been forgotten since.
        known = self._known.setdefault(program.number(address), set())
        if key in known:
            return
        known.add(key)
        file, offset = file_with_code(name, mapping.file), address - mapping.start + mapping.offset
        asked = _Asked(program, address, exact, file, offset, led)
        if self._rules.code_at(file, asked.looked_up) is not None:
            self._rules_of(asked, rules)
            return
        self._waiting.append(asked)
        wanted.setdefault(file, []).append(asked.looked_up)

    def _code(self, head: Part, program: Program) -> MappedCode | None:
        """Its mappings, which are read where the copy shows that there are new ones."""
        known, here = self._codes.get(program.libraries), None
        if known is not None:
            here = known.of(program)
            if (
                here.at(head.ip) >= 0
                or here.is_since(program, head.time_ns)
                or time.monotonic_ns() < known.read_ns + max(_AGAIN_NS, _TIMES * self._took_ns)
            ):
                return here
        read_ns = time.monotonic_ns()
        try:
            every = self._mappings(head.tgid)
        except TraceError:
            return here  # it is gone
        mappings = [each for each in every if "x" in each.perms]
        if not self.installed.runs(head.tgid, program):
            return here  # it has called exec since
        if known is None and len(self._codes) >= _MOST_PROGRAMS:
            del self._codes[next(iter(self._codes))]
        self._codes[program.libraries] = code = MappedCode(program, mappings, read_ns)
        self._took_ns = time.monotonic_ns() - read_ns
        if code.is_aligned(every):
            self.installed.separate(program)
        before = set(here.mappings) if here is not None else set()
        for mapping in mappings:
            if mapping not in before and (rules := self.files.of(program, mapping)):
                number = program.number(mapping.start)
                self._known.setdefault(number, set()).update(key for key, _ in rules)
                self.installed.add(number, rules)
        return code

    def _install(self) -> None:
        """Give the kernel what has been answered."""
        left = []
        rules: _ByNumber = {}
        for asked in self._waiting:
            if not self._rules_of(asked, rules):
                left.append(asked)
        self._waiting = left
        if not left:
            self._led.clear()
        self._add(rules)

    def _add(self, rules: _ByNumber) -> None:
        for number, some in rules.items():
            self.installed.add(number, some)

    def _rules_of(self, asked: _Asked, rules: _ByNumber) -> bool:
        """Add the kernel's rules for an address; whether they are known yet."""
        program, address, exact, file, offset, led = asked
        code = self._rules.code_at(file, asked.looked_up)
        if code is None:
            return False
        rule = rule_of(code, exact=exact)
        key = program.key(address, exact=exact)
        if rule is NO_CALL and not led and key not in self._led:
            # Of no use, and where libraries lie otherwise a return address may be there.
            self._known.get(program.number(address), set()).discard(key)
            return True
        if file not in (0, VDSO):
            self.files.add(file, offset, exact=exact, rule=rule, code=code)
        some = rules.setdefault(program.number(address), [])
        some.append((key, value_of(rule)))
        if code.bare_page and rule.cfa == Cfa.FRAME:
            some.append((program.page_key(address), value_of(rule)))
        return True

    def _forget(self, number: int) -> None:
        self._known.pop(number, None)
        self._codes.pop(number, None)
        self._missing.clear()
