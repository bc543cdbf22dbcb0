"""Call stacks: from the kernel's records to numbered stacks of code locations.

The kernel sends the addresses of a stack once, and a number for them in each fault's
record (bpf/stack.bpf.h). Here a frame becomes an offset in a mapped file, by the mappings of that
time, so that all processes that run a file have the same frames, also those that have ended.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, Protocol

import numpy as np

from tracer.common.fields import Columns, runs
from tracer.common.types import U64, Ids, Structs
from tracer.model.rows import Region
from tracer.spaces.code_files import NO_FILE
from tracer.spaces.spaces import Spaces
from tracer.symbolizing.rule import RBP, RSP, Rule
from tracer.wire.shared import STACK_USER

MOST_STACKS = 1 << 16  # distinct stacks in one run
_MOST_KNOWN = 1 << 17  # numbers of the kernel's: more than it remembers to have sent
_MOST_RAW = 1 << 14  # stacks whose fault has not come yet
_MOST_UNSURE = 1 << 12  # stacks that wait for rules
_REVISED_AT_ONCE = 64

# Exception entry points: frames further in are the handling of the fault itself.
_ENTRIES = ("asm_exc_page_fault", "handle_mm_fault")
_HOOKS = ("bpf_", "kretprobe_trampoline", "__kretprobe_trampoline", "arch_rethook_trampoline")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a frame's code lies.

    `name` is the mapped file's path or "[vdso]", "[anon]", …, and "" where nothing is known;
    `offset` is that in the file, else the address itself. `tgid`: the process, where code is
    its own (JIT-compiled), and `address` where it has it. `returns`: it is a return
    address, the call is before it. `file`: which file that is (tracer.spaces.code_files), 0 where
    none or not known.
    """

    kernel: bool
    name: str
    offset: int
    tgid: int = 0
    returns: bool = False
    file: int = 0
    address: int = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames, innermost first, as indices into `Stacks.locations`; addresses as they came first.

    Kept by the ten thousand: a tuple of numbers would take five times the room.
    """

    frames: "array[int]"
    addresses: "array[int]"
    truncated: bool  # the kernel's limit of frames was reached
    gap: int  # the first frame whose caller may be missing: code without frame pointers; -1: none
    ended: bool = False  # the last frame is marked as outermost


@dataclass(frozen=True, slots=True)
class _Raw:
    """A stack as the kernel sends it."""

    tgid: int
    mm: int
    kernel: U64
    user: U64
    truncated: bool
    caller: int  # a possible caller of the innermost function, where frame pointers do not show it


@dataclass(frozen=True, slots=True)
class _Located:
    """A stack's frames, before it is settled which of them are callers."""

    kernel: list[tuple[int, Location]]
    found: list[tuple[int, Location]]  # by frame pointers
    has_caller: bool
    truncated: bool

    def digest(self) -> bytes:
        """A key that distinguishes it from others, whatever its walk gives."""
        each = [location for _, location in (*self.kernel, *self.found)]
        return blake2b(repr((each, self.has_caller)).encode("utf-8", "replace")).digest()


class _Walk(NamedTuple):
    """Which of a stack's frames are callers of each other."""

    frames: list[tuple[int, Location]]
    gap: int  # as in Stack
    ended: bool  # it came to the thread's beginning
    sure: bool  # all unwind rules that it needed were known


class Rules(Protocol):
    """Source of unwind rules; FrameNames is one."""

    def ask_rules(self, locations: Iterable[Location]) -> None:
        """Request what `rule` will be asked for. Waits briefly; answers may come later."""

    def rule(self, location: Location) -> Rule | None:
        """The unwind rule of the code there; None: there is none, or it is not known yet."""

    def has_rule(self, location: Location) -> bool:
        """Whether that answer is final."""


class Stacks:
    """The stacks of a run, by number from 1 in the order they were seen."""

    def __init__(
        self,
        spaces: Spaces,
        regions: Sequence[Region],
        kernel_names: Callable[[Sequence[int]], list[str]],
        rules: Rules | None = None,
        found: Callable[[Location], object] = lambda location: None,
    ) -> None:
        """`regions` as in rows.Names; `kernel_names` names kernel addresses, "" where unknown.

        `found` is called with each new location.
        """
        self.locations: list[Location] = []
        self.stacks: list[Stack] = [Stack(array("I"), array("Q"), False, -1)]
        self.refused = 0  # stacks beyond MOST_STACKS
        self.unrevised = 0  # stacks that stay as they were walked, without all rules
        self.revised = 0  # times that a stack became another, by rules that became known later
        self._spaces = spaces
        self._regions = regions
        self._kernel_names = kernel_names
        self._rules = rules
        self._unsure: dict[int, _Located] = {}  # by number: walked without all rules
        self._found = found
        self._location_ids: dict[Location, int] = {}
        self._numbers: dict[bytes, int] = {}  # by frames
        self._known: dict[int, int] = {}  # by the kernel's number, the last used at the end
        self._parts: dict[int, list[np.void]] = {}
        self._raw: dict[int, _Raw] = {}

    def learn(self, records: Structs) -> None:
        """Receive stack records (bpf/shared.h) as they come."""
        for record in records:
            number = int(record["stack"])
            parts = self._parts.setdefault(number, [])
            if not record["first"]:  # from the start: what came before was not finished
                parts.clear()
            parts.append(record)
            raw = _assembled(parts)
            if raw is not None:
                del self._parts[number]
                self._raw[number] = raw
        for waiting in (self._parts, self._raw):
            while len(waiting) > _MOST_RAW:  # the records of their faults were dropped
                del waiting[next(iter(waiting))]

    def numbers(self, faults: Columns, spaces: Ids) -> Ids:
        """The number of each fault's stack, 0 where there is none; `spaces` are the faults' own."""
        ids = faults["stack"]
        if not len(ids):
            return np.empty(0, np.uint32)
        heads = runs(ids)
        distinct, first, inverse = np.unique(ids[heads], return_index=True, return_inverse=True)
        numbers, positions = distinct.tolist(), heads[first].tolist()
        fresh = {
            number: self._located(raw, faults, at, spaces)
            for number, at in zip(numbers, positions, strict=True)
            if (raw := self._raw.pop(number, None)) is not None and number not in self._known
        }
        self._ask_rules(fresh.values())
        found = [self._number(number, fresh.get(number)) for number in numbers]
        each = np.array(found, np.uint32)[inverse]
        return np.asarray(np.repeat(each, np.diff(heads, append=len(ids))))

    @property
    def unsure(self) -> int:
        """How many were walked without all rules, and wait for them."""
        return len(self._unsure)

    def revise(self, at_once: int = _REVISED_AT_ONCE) -> None:
        """Walk again the stacks whose unwind rules have become known since, some at a time."""
        for number in list(self._unsure)[:at_once]:
            located = self._unsure.pop(number)
            walk = self._walked(located)
            if not walk.sure:  # … and have been forgotten, or are not asked for yet
                self._unsure[number] = located
                self._ask_rules([located])
                continue
            stack = self._stack(located, walk)
            if stack != self.stacks[number]:
                self.stacks[number] = stack
                self.revised += 1

    def _number(self, number: int, located: _Located | None) -> int:
        known = self._known.pop(number, None)
        if known is None:
            if located is None:
                return 0  # its frames were dropped, or it has none
            known = self._resolve(located)
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        self._known[number] = known
        return known

    def _located(self, raw: _Raw, faults: Columns, at: int, spaces: Ids) -> _Located:
        space = int(spaces[at]) if int(faults["mm"][at]) == raw.mm else 0
        found = self._user_locations(raw, space, int(faults["time_ns"][at]))
        return _Located(self._kernel_locations(raw), found, bool(raw.caller), raw.truncated)

    def _resolve(self, located: _Located) -> int:
        walk = self._walked(located)
        each = (*located.kernel, *walk.frames)
        full = len(self.stacks) > MOST_STACKS
        # Of what is refused nothing is kept: programs may come and go without end.
        if full and any(location not in self._location_ids for _, location in each):
            self.refused += 1
            return 0
        if not each:
            return 0
        stack = self._stack(located, walk)
        key = stack.frames.tobytes() if walk.sure else located.digest()
        number = self._numbers.get(key)
        if number is None:
            if full:
                self.refused += 1
                return 0
            number = self._numbers[key] = len(self.stacks)
            self.stacks.append(stack)
            if not walk.sure and len(self._unsure) < _MOST_UNSURE:
                self._unsure[number] = located
            elif not walk.sure:
                self.unrevised += 1
        return number

    def _stack(self, located: _Located, walk: _Walk) -> Stack:
        frames, addresses, gap = array("I"), array("Q"), walk.gap
        truncated = (
            located.truncated and len(walk.frames) >= len(located.found) - located.has_caller
        )
        for address, location in (*located.kernel, *walk.frames):
            addresses.append(address)
            frames.append(self._location_ids.setdefault(location, len(self.locations)))
            if frames[-1] == len(self.locations):
                self.locations.append(location)
                self._found(location)
        gap += len(located.kernel) if gap >= 0 else 0
        return Stack(frames, addresses, truncated, gap, walk.ended)

    def _ask_rules(self, located: Iterable[_Located]) -> None:
        """Request the rules these walks lack; most lack none."""
        if self._rules is not None:
            unsure = [each for each in located if not self._walked(each).sure]
            if unsure:
                locations = (location for each in unsure for _, location in each.found)
                self._rules.ask_rules(dict.fromkeys(locations))

    def _kernel_locations(self, raw: _Raw) -> list[tuple[int, Location]]:
        addresses = raw.kernel.tolist()
        if not addresses:
            return []
        start = _entered(self._kernel_names(addresses))
        return [(ip, Location(True, "", ip, returns=True)) for ip in addresses[start:]]

    def _user_locations(self, raw: _Raw, space: int, time_ns: int) -> list[tuple[int, Location]]:
        """The frames by frame pointers; after the first the one that may have called it."""
        ips = raw.user
        if not len(ips):
            return []
        if raw.caller:
            ips = np.insert(ips, 1, np.uint64(raw.caller))
        if not space:
            there = self._spaces.at(raw.mm) or self._spaces.of(raw.tgid)
            space = there.number if there is not None else 0
        regions, shifts = np.zeros((2, len(ips)), np.uint64)
        if space:
            times = np.full(len(ips), time_ns, np.int64)
            regions, shifts = self._spaces.lookup(space, ips, times)
        locations = []
        offsets = (ips + shifts).tolist()
        exact = 0 if len(raw.kernel) else 1  # so many are no return addresses
        each = zip(ips.tolist(), regions.tolist(), offsets, strict=True)
        for index, (ip, region, offset) in enumerate(each):
            name, file = self._regions[region].name, self._regions[region].file
            returns = index >= exact
            if name.startswith(NO_FILE):
                location = Location(False, name, offset, raw.tgid, returns, address=ip)
            elif name.startswith("/") or name == "[vdso]":
                location = Location(False, name, offset, returns=returns, file=file)
            else:
                location = Location(False, name, ip, raw.tgid, returns, address=ip)
            locations.append((ip, location))
        return locations

    def _walked(self, located: _Located) -> _Walk:
        """Select the callers from frames found by frame pointers, and where one may be missing.

        A function that keeps no frame pointer leaves its caller's in place, and so hides its
        caller; one that uses the register for something else hides all there is above it. Where
        it `has_caller`, the second frame is not by a frame pointer: it holds where the first
        function has pushed nothing.
        """
        found, has_caller = located.found, located.has_caller
        if not found:
            return _Walk([], -1, False, True)
        rule, sure = self._rule(found[0][1])
        pushed_nothing = rule is not None and (rule.register, rule.offset) == (RSP, 8)
        if has_caller and not pushed_nothing:
            found = [found[0], *found[2:]]
        walked, gap = [], -1
        for index, (address, location) in enumerate(found):
            walked.append((address, location))
            rule, known = self._rule(location)
            sure = sure and known
            if rule is not None and rule.outermost:
                return _Walk(walked, gap, True, sure)
            if rule is None or rule.register == RBP:
                continue
            if gap < 0 and not (index == 0 and has_caller and pushed_nothing):
                gap = index
            if not rule.keeps_rbp:
                break
        return _Walk(walked, gap, False, sure)

    def _rule(self, location: Location) -> tuple[Rule | None, bool]:
        """The rule of a location as far as it is known, and whether it is."""
        if self._rules is None:
            return None, True
        known = self._rules.has_rule(location)
        return self._rules.rule(location) if known else None, known


def _assembled(parts: list[np.void]) -> _Raw | None:
    """The whole stack, once all its parts are there."""
    head = parts[0]
    kernel, user = int(head["kernel"]), int(head["user"])
    ips = np.zeros(kernel + user, np.uint64)
    known = 0
    for part in parts:
        first, room = int(part["first"]), len(part["ips"])
        end = kernel if first < kernel else kernel + user
        count = max(0, min(room, end - first))
        if first != known:
            return None  # a part in between was dropped
        ips[first : first + count] = part["ips"][:count]
        known += count
    if known < kernel + user:
        return None
    # The frame pointer that ends a chain is 0: no code is there.
    mine = ips[kernel:]
    mine = mine[mine > np.uint64(0xFFF)]
    whose = int(head["tgid"]), int(head["mm"])
    return _Raw(*whose, ips[:kernel], mine, len(mine) >= STACK_USER, int(head["caller"]))


def _entered(names: Sequence[str]) -> int:
    """How many of the innermost kernel frames are the fault's own handling, or ours."""
    for entry in _ENTRIES:
        if entry in names:
            return names.index(entry) + 1
    start = 0
    while start < len(names) and (not names[start] or names[start].startswith(_HOOKS)):
        start += 1
    return start
