"""The unwind rules that the kernel walks by: which it was given, for which programs.

The rule for an address of a program never changes: where other code was mapped there, the process
gets a program of its own, and so no rules (bpf/shared.h: struct program).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from tracer.common.types import U64, Bools
from tracer.symbolizing.rule import UNKNOWN, Rule
from tracer.wire.shared import RULE_CODE

MOST_RULES = 200_000  # of all programs: of the map's 262,144
_MOST_OF_ONE = 100_000
_MOST_PROGRAMS = 1 << 14  # as many as the kernel remembers
_MOST_MISTAKEN = 8  # processes for which a program's rules did not hold: then it loses them
_ALL = (1 << 64) - 1
_UNKNOWN_RBX = 0xFF  # bpf/shared.h: RULE_UNKNOWN_RBX
_PAGE_SHIFT = 12


class Program(NamedTuple):
    """Whose rules they are (bpf/shared.h: struct program)."""

    own: int
    shared: int
    libraries: int
    code_start: int
    code_end: int
    mmap_base: int

    def number(self, address: int) -> int:
        """The number that the rules for an address are for."""
        return self.shared if self.has(address) else self.libraries

    def has(self, address: int) -> bool:
        """Whether it is an address of the executable's own code."""
        return self.code_start <= address < self.code_end  # the kernel has it in this order

    def key(self, address: int, *, exact: bool) -> int:
        """The key of an address's rule."""
        return (self.number(address) + 2 * self._relative(address) + exact) & _ALL

    def page_key(self, address: int) -> int:
        """The key of the rule of a page of code without unwind information."""
        return (self.number(address) ^ ~(self._relative(address) >> _PAGE_SHIFT)) & _ALL

    def own_page_key(self, address: int) -> int:
        """The same where no file is mapped."""
        return (self.own ^ ~(address >> _PAGE_SHIFT)) & _ALL

    def keys(self, addresses: U64, exact: U64, pages: Bools) -> U64:
        """The keys of many addresses, shape (n,); where `pages`, of their pages' rules."""
        offsets = addresses - np.uint64(self.code_start)
        mine = offsets < np.uint64((self.code_end - self.code_start) & _ALL)
        where = np.where(
            mine, offsets + np.uint64(RULE_CODE), addresses - np.uint64(self.mmap_base)
        )
        numbers = np.where(mine, np.uint64(self.shared), np.uint64(self.libraries))
        own = numbers + where + where + exact
        return np.where(pages, numbers ^ ~(where >> np.uint64(_PAGE_SHIFT)), own)

    def _relative(self, address: int) -> int:
        if self.has(address):
            return address - self.code_start + RULE_CODE
        return (address - self.mmap_base) & _ALL


class Kernel(NamedTuple):
    """What the kernel has, and is given (tracer.probes.unwind_maps)."""

    install: Callable[[U64, U64], None]  # keys and values
    remove: Callable[[U64], None]  # keys
    program: Callable[[int], Program | None]  # by its own number
    # A process, what it runs, and whether that is another program altogether, or only its libraries
    # are elsewhere: it gets numbers of its own.
    renew: Callable[[int, int, bool], None]
    unalike: Callable[[int], None]  # libraries lie differently in each process of that `shared`
    runs: Callable[[int], int]  # a process: its program's own number
    running: Callable[[], set[int]]  # all numbers of programs that processes run
    # A struct python_runtime, by member, for the program of that number.
    install_python: Callable[[int, dict[str, int]], None]


def value_of(rule: Rule) -> int:
    """A rule as the kernel has it (struct rule), as a little-endian number."""
    rbx = _UNKNOWN_RBX if rule.rbx == UNKNOWN else -rule.rbx // 8
    return (rule.offset & 0xFFFFFFFF) | (rule.rbp & 0xFFFF) << 32 | rule.cfa << 48 | rbx << 56


class KernelRules:
    """What the kernel was given. When it is too much, programs that have ended lose all first."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._rules: dict[int, dict[int, int]] = {}  # value by key, by the number they are for
        self._count = 0
        self._programs: dict[int, Program] = {}  # by their own number
        # Whether the executable's own code was another one; by shared: by own number and process.
        self._mistaken: dict[int, dict[tuple[int, int], bool]] = {}
        self._separate: set[int] = set()  # shared numbers
        self.forget: Callable[[int], None] = lambda number: None  # called with what lost all
        # Called with a process whose program has another number from now on.
        self.renewed: Callable[[int], None] = lambda tgid: None

    def program(self, own: int) -> Program | None:
        """The program of that number; None where it is not known any more."""
        known = self._programs.get(own)
        if known is None and own:
            known = self._kernel.program(own)
            if known is not None:
                if len(self._programs) >= _MOST_PROGRAMS:
                    del self._programs[next(iter(self._programs))]
                self._programs[own] = known
        return known

    def own_of(self, tgid: int) -> int:
        """The own number of the program that a process runs now; 0 where it is not known."""
        return self._kernel.runs(tgid)

    def install_python(self, number: int, runtime: dict[str, int]) -> None:
        """Give the kernel a struct python_runtime for the program of that number."""
        self._kernel.install_python(number, runtime)

    def runs(self, tgid: int, program: Program) -> bool:
        """Whether a process runs that program now."""
        return self._kernel.runs(tgid) == program.own

    def add(self, number: int, rules: Iterable[tuple[int, int]]) -> None:
        """Install rules, by key, that are not there yet; `number`: of a program."""
        known = self._rules.pop(number, None)
        known = self._rules[number] = {} if known is None else known  # at the end
        new = {key: value for key, value in rules if key not in known}
        if not new:
            return
        if len(known) + len(new) > _MOST_OF_ONE:  # anew: what is used is learned again
            self._drop(number)
            known = self._rules[number] = {}
            new = dict(list(new.items())[:_MOST_OF_ONE])
        known.update(new)
        self._count += len(new)
        if self._count > MOST_RULES:
            self._make_room(number)
        self._kernel.install(
            np.array(list(new), np.uint64), np.array(list(new.values()), np.uint64)
        )

    def used(self, program: Program, address: int, *, exact: bool) -> int | None:
        """The value that the kernel walked by, by value_of; None where it is not known any more."""
        rules = self._rules.get(program.number(address), {})
        found = rules.get(program.key(address, exact=exact))
        if found is None:
            found = rules.get(program.page_key(address))
        if found is None:
            found = self._rules.get(program.own, {}).get(program.own_page_key(address))
        return found

    def replace(self, program: Program, address: int, tgid: int) -> None:
        """The code at an address of this program is another one in that process."""
        mistaken = self._mistaken.setdefault(program.shared, {})
        if (program.own, tgid) in mistaken:
            return
        another = program.has(address)
        mistaken[program.own, tgid] = another
        if not another:
            self.separate(program)
        self._kernel.renew(tgid, program.own, another)
        self.renewed(tgid)
        if sum(mistaken.values()) >= _MOST_MISTAKEN:  # it was built anew, say
            self._drop(program.shared)

    def separate(self, program: Program) -> None:
        """Libraries lie differently in each process that runs this executable."""
        if program.libraries == program.shared and program.shared not in self._separate:
            self._separate.add(program.shared)
            self._kernel.unalike(program.shared)

    def _make_room(self, kept: int) -> None:
        """Drop rules of programs that nothing runs any more, then of others; not those `kept`."""
        running = self._kernel.running()
        ended = [number for number in self._rules if number not in running]
        for number in [*ended, *self._rules]:
            if self._count <= MOST_RULES // 2:
                return
            if number != kept:
                self._drop(number)

    def _drop(self, number: int) -> None:
        dropped = self._rules.pop(number, {})
        self._mistaken.pop(number, None)
        self._count -= len(dropped)
        if dropped:
            self._kernel.remove(np.array(list(dropped), np.uint64))
        self.forget(number)
