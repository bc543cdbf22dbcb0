"""Call stacks: from the kernel's records to numbered stacks of code locations.

The kernel sends the addresses of a stack once, and a number for them in each fault's
record (bpf/stack.bpf.h). Here a frame becomes an offset in a mapped file, by the mappings of that
time, so that all processes that run a file have the same frames, also those that have ended.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from tracer.callstacks.code_versions import Code, CodeVersions, Versions, code_of
from tracer.callstacks.frame_pointers import Frames, callers
from tracer.callstacks.kernel_rules import KernelRules
from tracer.callstacks.learning import Learner, Rules
from tracer.callstacks.locations import Location, Locator
from tracer.callstacks.python_runtimes import PythonRuntimes
from tracer.callstacks.records import PythonEnd, Raw, assembled, python_of
from tracer.callstacks.unwinding import End
from tracer.callstacks.walks import Walk, Walks
from tracer.common.fields import Columns, runs
from tracer.common.types import Ids, Structs
from tracer.model.rows import Region
from tracer.procfs.maps import Mapping
from tracer.spaces.spaces import Spaces
from tracer.symbolizing.rule import Rule
from tracer.wire.copies import CopyRing
from tracer.wire.records import RecordType

MOST_STACKS = 1 << 16  # distinct stacks in one run
_MOST_KNOWN = 1 << 17  # numbers of the kernel's: more than it remembers to have sent
_MOST_RAW = 1 << 14  # stacks whose fault has not come yet
_MOST_UNSURE = 1 << 12  # stacks that wait for rules
_MOST_LOCATIONS = 1 << 18  # and so many locations in them
_REVISED_AT_ONCE = 64

_NO_FRAMES = array("I")
PYTHON = "[python]"  # the name of a location of Python code whose code object has not come

# Exception entry points: frames further in are the handling of the fault itself.
_ENTRIES = ("asm_exc_page_fault", "handle_mm_fault")
_HOOKS = ("bpf_", "kretprobe_trampoline", "__kretprobe_trampoline", "arch_rethook_trampoline")


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
    end: End = End.NOT_WALKED  # where a walk by rules ended
    # Python's frames likewise, as 2 * index + whether C code called it; and where they end.
    python: "array[int]" = field(default_factory=lambda: _NO_FRAMES)
    python_end: PythonEnd = PythonEnd.NONE
    loops: tuple[int, ...] = ()  # the frame of each call of its evaluation loop; -1: not known


@dataclass(frozen=True, slots=True)
class _Located:
    """A stack's frames, before it is settled which of them are callers."""

    kernel: Frames
    found: Frames  # by frame pointers
    has_caller: bool
    truncated: bool
    walk: Walk | None = None  # by rules
    python: tuple[tuple[Location, bool], ...] = ()
    python_end: PythonEnd = PythonEnd.NONE

    def digest(self) -> bytes:
        """A key that distinguishes it from others, whatever its walk gives."""
        each = [location for _, location in (*self.kernel, *self.found)]
        key = self.walk.number if self.walk is not None else self.has_caller
        python = self.python, self.python_end
        return blake2b(repr((each, key, python)).encode("utf-8", "replace")).digest()


@dataclass(frozen=True, slots=True)
class _Result:
    """What a stack is by what is known now."""

    frames: Frames
    gap: int  # as in Stack
    ended: bool
    sure: bool  # no more will be known
    end: End = End.NOT_WALKED
    loops: Sequence[int] = ()  # as in walks.Walked


class Stacks:
    """The stacks of a run, by number from 1 in the order they were seen."""

    def __init__(
        self,
        spaces: Spaces,
        regions: Sequence[Region],
        kernel_names: Callable[[Sequence[int]], list[str]],
        rules: Rules | None = None,
        versions: CodeVersions | None = None,
    ) -> None:
        """`regions` as in rows.Names; `kernel_names` names kernel addresses, "" where unknown."""
        self.locations: list[Location] = []
        self.stacks: list[Stack] = [Stack(array("I"), array("Q"), False, -1)]
        self.refused = 0  # stacks beyond MOST_STACKS
        self.unrevised = 0  # stacks that stay as they were walked, without all rules
        self.revised = 0  # times that a stack became another, by rules that became known later
        self._spaces = spaces
        self._locator = Locator(spaces, regions)
        self._kernel_names = kernel_names
        self._rules = rules
        self._unsure: dict[int, _Located] = {}  # by number: walked without all rules
        self._versions = versions
        self._variants: dict[tuple[int, frozenset[tuple[Code, int]]], int] = {}
        self._location_ids: dict[Location, int] = {}
        self._numbers: dict[bytes, int] = {}  # by frames
        self._known: dict[int, int] = {}  # by the kernel's number, the last used at the end
        self._parts: dict[int, list[np.void]] = {}
        self._raw: dict[int, Raw] = {}
        self._python: dict[int, list[np.void]] = {}  # parts of Python's frames, by the same number
        self._learner: Learner | None = None
        self._walks: Walks | None = None

    def walk_by_rules(
        self, ring: CopyRing, installed: KernelRules, mappings: Callable[[int], Sequence[Mapping]]
    ) -> Learner | None:
        """The kernel walks by unwind rules, and sends copies of stacks where it lacks some.

        `mappings` as for Learner. None where nobody knows rules.
        """
        if self._rules is None:
            return None
        self._learner = learner = Learner(ring, installed, self._rules, mappings)
        learner.pythons = pythons = PythonRuntimes(
            self._rules, installed.program, installed.own_of, installed.install_python
        )
        installed.renewed = pythons.renewed
        self._spaces.code_mapped = pythons.mapped
        self._walks = Walks(self._locator, self._rules, learner)
        return learner

    def learn(self, records: Structs) -> None:
        """Receive stack records (bpf/shared.h) as they come."""
        for record in records:
            number = int(record["stack"])
            if record["type"] == RecordType.PYTHON:
                if not record["first"]:
                    self._python[number] = []
                self._python.setdefault(number, []).append(record)
                continue
            parts = self._parts.setdefault(number, [])
            if not record["first"]:  # from the start: what came before was not finished
                parts.clear()
            parts.append(record)
            raw = assembled(parts)
            if raw is not None:
                del self._parts[number]
                self._raw[number] = raw
                if self._learner is not None and self._learner.pythons is not None:
                    self._learner.pythons.runs(raw.tgid, raw.program)
        for waiting in (self._parts, self._raw, self._python):
            while len(waiting) > _MOST_RAW:  # the records of their faults were dropped
                number = next(iter(waiting))
                del waiting[number]
                self._drop_copy(number)

    def numbers(self, faults: Columns, spaces: Ids) -> Ids:
        """The number of each fault's stack, 0 where there is none; `spaces` are the faults' own."""
        ids = faults["stack"]
        if not len(ids):
            return np.empty(0, np.uint32)
        heads = runs(ids)
        distinct, first, inverse = np.unique(ids[heads], return_index=True, return_inverse=True)
        numbers, positions = distinct.tolist(), heads[first].tolist()
        fresh = {
            number: self._located(number, raw, faults, at, spaces)
            for at, number in sorted(zip(positions, numbers, strict=True))  # mappings by time
            if (raw := self._pop_raw(number)) is not None
        }
        self._ask_rules(fresh.values())
        found = [self._number(number, fresh.get(number)) for number in numbers]
        each = np.array(found, np.uint32)[inverse]
        each = np.asarray(np.repeat(each, np.diff(heads, append=len(ids))))
        return self._versions.split(each, faults["time_ns"], self) if self._versions else each

    def made(self, number: int) -> Sequence[Code]:
        """The JIT-compiled code in a stack (code_versions.Numbered)."""
        each = (self.locations[at] for at in dict.fromkeys(self.stacks[number].frames))
        return tuple(dict.fromkeys(code_of(location) for location in each if location.tgid))

    def variant(self, number: int, versions: Versions) -> int:
        """The same stack with these versions of its code (code_versions.Numbered)."""
        key = number, frozenset(versions.items())
        known = self._variants.get(key)
        if known is None and len(self.stacks) > MOST_STACKS:
            self.refused += 1
            return 0
        if known is None:
            known = self._variants[key] = len(self.stacks)
            self.stacks.append(self._with(self.stacks[number], versions))
        return known

    def _with(self, stack: Stack, versions: Versions) -> Stack:
        each = (self.locations[at] for at in stack.frames)
        frames = (self._id(_versioned(location, versions)) for location in each)
        return replace(stack, frames=array("I", list(frames)))

    def _pop_raw(self, number: int) -> Raw | None:
        """A stack that has come, unless it is known; of one that is known nothing is kept."""
        raw = self._raw.pop(number, None)
        if raw is None or number not in self._known:
            return raw
        self._drop_copy(number)
        self._python.pop(number, None)
        return None

    def _drop_copy(self, number: int) -> None:
        if self._walks is not None:
            self._walks.drop(number)

    @property
    def refused_pythons(self) -> dict[str, str]:
        """Versions of Python whose frames are not known, and why."""
        pythons = self._learner.pythons if self._learner is not None else None
        return {} if pythons is None else pythons.refused

    @property
    def unsure(self) -> int:
        """How many were walked without all rules, and wait for them."""
        return len(self._unsure)

    def revise(self, at_once: int = _REVISED_AT_ONCE) -> None:
        """Walk again the stacks whose unwind rules have become known since, some at a time."""
        for number in list(self._unsure)[:at_once]:
            located = self._unsure.pop(number)
            result = self._result(located)
            if not result.sure:  # … and have been forgotten, or are not asked for yet
                self._unsure[number] = located
                self._ask_rules([located])
                continue
            stack = self._stack(located, result)
            self._numbers.setdefault(_key(stack, result), number)
            if stack != self.stacks[number]:
                self._replace(number, stack)

    def _replace(self, number: int, stack: Stack) -> None:
        self.stacks[number] = stack
        self.revised += 1
        for (base, versions), variant in self._variants.items():
            if base == number:
                self.stacks[variant] = self._with(stack, dict(versions))
        if self._versions is not None:
            self._versions.revised(number, self)

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

    def _located(self, number: int, raw: Raw, faults: Columns, at: int, spaces: Ids) -> _Located:
        space = int(spaces[at]) if int(faults["mm"][at]) == raw.mm else 0
        owner = self._locator.owner(raw.tgid, raw.mm, space, int(faults["time_ns"][at]))
        kernel = self._kernel_frames(raw)
        if raw.end and self._walks is not None:
            python, end, loops = self._python_frames(number)
            walk = self._walks.begin(number, raw, owner, loops)
            return _Located(kernel, walk.frames, False, False, walk, python, end)
        found = []
        ips = raw.user.tolist()
        if raw.caller and ips:  # the one that may have called the first
            ips.insert(1, raw.caller)
        for index, ip in enumerate(ips):
            location, runs_ = self._locator.at(owner, ip, returns=bool(kernel) or index > 0)
            if index and not runs_ and location.name:
                break  # data: the frame pointer was none
            found.append((ip, location))
        return _Located(kernel, found, bool(raw.caller), raw.truncated)

    def _python_frames(
        self, number: int
    ) -> tuple[tuple[tuple[Location, bool], ...], PythonEnd, list[tuple[int, int]]]:
        """Python's frames of a stack, and whether C code called each; where they end; loops."""
        parts = self._python.pop(number, None)
        raw = python_of(parts) if parts and self._learner is not None else None
        if raw is None or self._learner is None:
            return (), PythonEnd.NONE, []
        frames = []
        for number, position, entry in zip(raw.codes, raw.positions, raw.entries, strict=True):
            code = self._learner.codes.get(number)
            if code is not None and code.is_made:
                continue
            if code is not None and code.function:
                line = code.line(position)
                at = Location(False, code.file, line, function=code.function)
            else:
                at = Location(False, PYTHON, number)
            frames.append((at, entry))
        return tuple(frames), raw.end, raw.loops

    def _resolve(self, located: _Located) -> int:
        result = self._result(located)
        each = (*located.kernel, *result.frames)
        full = len(self.stacks) > MOST_STACKS or len(self.locations) > _MOST_LOCATIONS
        # Of what is refused nothing is kept: programs may come and go without end.
        if full and any(
            location not in self._location_ids
            for location in (*(where for _, where in each), *(where for where, _ in located.python))
        ):
            self.refused += 1
            return 0
        if not each:
            return 0
        stack = self._stack(located, result)
        key = _key(stack, result) if result.sure else located.digest()
        number = self._numbers.get(key)
        if number is None:
            if full:
                self.refused += 1
                return 0
            number = self._numbers[key] = len(self.stacks)
            self.stacks.append(stack)
            if not result.sure and len(self._unsure) < _MOST_UNSURE:
                self._unsure[number] = located
            elif not result.sure:
                self.unrevised += 1
        return number

    def _stack(self, located: _Located, result: _Result) -> Stack:
        frames, addresses, gap = array("I"), array("Q"), result.gap
        python = array("I") if located.python else _NO_FRAMES
        truncated = result.end == End.LIMIT or (
            located.truncated and len(result.frames) >= len(located.found) - located.has_caller
        )
        for address, location in (*located.kernel, *result.frames):
            addresses.append(address)
            frames.append(self._id(location))
        for location, entry in located.python:
            python.append(2 * self._id(location) + entry)
        gap += len(located.kernel) if gap >= 0 else 0
        how = truncated, gap, result.ended, result.end
        loops = tuple(at + len(located.kernel) if at >= 0 else -1 for at in result.loops)
        return Stack(frames, addresses, *how, python, located.python_end, loops)

    def _id(self, location: Location) -> int:
        number = self._location_ids.setdefault(location, len(self.locations))
        if number == len(self.locations):
            self.locations.append(location)
        return number

    def _result(self, located: _Located) -> _Result:
        if located.walk is not None and self._walks is not None:
            frames, end, sure, loops = self._walks.now(located.walk)
            whole = end in (End.OUTERMOST, End.NOT_WALKED)
            return _Result(frames, -1, whole, sure, end, loops)
        found = callers(located.found, self._rule, has_caller=located.has_caller)
        return _Result(found.frames, found.gap, found.ended, found.sure)

    def _ask_rules(self, located: Iterable[_Located]) -> None:
        """Request the rules these walks lack; most lack none."""
        if self._rules is None:
            return
        wanted: dict[Location, None] = {}
        for each in located:
            if each.walk is not None and self._walks is not None:
                wanted.update(dict.fromkeys(self._walks.lacking(each.walk)))
            elif not self._result(each).sure:
                wanted.update(dict.fromkeys(location for _, location in each.found))
        if wanted:
            self._rules.ask_rules(wanted)

    def _kernel_frames(self, raw: Raw) -> Frames:
        addresses = raw.kernel.tolist()
        if not addresses:
            return []
        start = _entered(self._kernel_names(addresses))
        return [(ip, Location(True, "", ip, returns=True)) for ip in addresses[start:]]

    def _rule(self, location: Location) -> tuple[Rule | None, bool]:
        """The rule of a location as far as it is known, and whether it is."""
        if self._rules is None:
            return None, True
        known = self._rules.has_rule(location)
        code = self._rules.code(location) if known else None
        return code.rule if code is not None else None, known


def _versioned(location: Location, versions: Versions) -> Location:
    version = versions.get(code_of(location), 0) if location.tgid else 0
    return replace(location, version=version) if version else location


def _key(stack: Stack, result: _Result) -> bytes:
    """What distinguishes a settled stack from others."""
    python = stack.python.tobytes() + bytes([stack.python_end])
    return bytes([len(stack.frames), result.end]) + stack.frames.tobytes() + python


def _entered(names: Sequence[str]) -> int:
    """How many of the innermost kernel frames are the fault's own handling, or ours."""
    for entry in _ENTRIES:
        if entry in names:
            return names.index(entry) + 1
    start = 0
    while start < len(names) and (not names[start] or names[start].startswith(_HOOKS)):
        start += 1
    return start
