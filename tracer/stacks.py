"""Call stacks: from the kernel's records to one number for each, and what its frames lie in.

The kernel sends the addresses of a stack once and stands a number for them in each fault's
record (bpf/stack.h). Here a frame becomes a place in a mapped file, by the mappings of that
time, so that all processes that run a file have the same frames, also those that have ended.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tracer.code_files import NO_FILE
from tracer.fields import Columns, runs
from tracer.rows import Region
from tracer.spaces import Spaces
from tracer.unwind import RBP, RSP, Rule

Ids = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Records = npt.NDArray[np.void]

MOST_USER = 127  # frames the kernel takes of a program's stack at most (bpf/stack.h)
MOST_STACKS = 1 << 16  # told apart in one run
_MOST_KNOWN = 1 << 17  # numbers of the kernel's: more than it remembers to have sent
_MOST_RAW = 1 << 14  # stacks whose fault has not come yet

# Where an exception comes in: what lies further in is the handling of the fault itself.
_ENTRIES = ("asm_exc_page_fault", "handle_mm_fault")
_HOOKS = ("bpf_", "kretprobe_trampoline", "__kretprobe_trampoline", "arch_rethook_trampoline")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame's code lies.

    `name` is the mapped file's path or "[vdso]", "[anon]", …, and "" where nothing is known;
    `offset` is that in the file, else the address itself. `tgid`: the process, where code is
    its own (made at run time), and `address` where it has it. `returns`: it is a return
    address, the call is before it. `file`: which file that is (tracer.code_files), 0 where
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
    """Frames, innermost first, as indices into `Stacks.places`; addresses as they came first.

    Kept by the ten thousand: a tuple of numbers would take five times the room.
    """

    frames: "array[int]"
    addresses: "array[int]"
    truncated: bool  # the kernel took no more frames
    gap: int  # the first frame whose caller may be missing: code without frame pointers; -1: none
    ended: bool = False  # the last frame says of itself that nothing called it


@dataclass(frozen=True, slots=True)
class _Raw:
    """A stack as the kernel sends it."""

    tgid: int
    mm: int
    kernel: U64
    user: U64
    truncated: bool
    caller: int  # what may have called the innermost function, where frame pointers do not tell


class Stacks:
    """The stacks of a run, by number from 1 in the order they were seen."""

    def __init__(
        self,
        spaces: Spaces,
        regions: Sequence[Region],
        kernel_names: Callable[[Sequence[int]], list[str]],
        rule: Callable[[Place], Rule | None] = lambda place: None,
        found: Callable[[Place], object] = lambda place: None,
    ) -> None:
        """`regions` as in rows.Names; `kernel_names` names kernel addresses, "" where unknown.

        `rule` tells how the code at a place keeps its caller; `found` hears of each new place.
        """
        self.places: list[Place] = []
        self.stacks: list[Stack] = [Stack(array("I"), array("Q"), False, -1)]
        self.refused = 0  # stacks beyond MOST_STACKS
        self._spaces = spaces
        self._regions = regions
        self._kernel_names = kernel_names
        self._rule = cache(rule)
        self._found = found
        self._place_ids: dict[Place, int] = {}
        self._numbers: dict[bytes, int] = {}  # by frames
        self._known: dict[int, int] = {}  # by the kernel's number, the last used at the end
        self._parts: dict[int, list[np.void]] = {}
        self._raw: dict[int, _Raw] = {}

    def learn(self, records: Records) -> None:
        """Take stack records (bpf/record.h) as they come."""
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
            while len(waiting) > _MOST_RAW:  # their faults were lost
                del waiting[next(iter(waiting))]

    def numbers(self, faults: Columns, spaces: Ids) -> Ids:
        """The number of each fault's stack, 0 where there is none; `spaces` are the faults' own."""
        ids = faults["stack"]
        if not len(ids):
            return np.empty(0, np.uint32)
        heads = runs(ids)
        distinct, first, inverse = np.unique(ids[heads], return_index=True, return_inverse=True)
        found = [
            self._number(number, faults, int(heads[at]), spaces)
            for number, at in zip(distinct.tolist(), first.tolist(), strict=True)
        ]
        each = np.array(found, np.uint32)[inverse]
        return np.asarray(np.repeat(each, np.diff(heads, append=len(ids))))

    def _number(self, number: int, faults: Columns, at: int, spaces: Ids) -> int:
        if not number:
            return 0
        raw = self._raw.pop(number, None)
        known = self._known.pop(number, None)
        if known is None:
            if raw is None:
                return 0  # its frames found no room in the ring
            mine = int(faults["mm"][at]) == raw.mm
            space = int(spaces[at]) if mine else 0
            known = self._resolve(raw, space, int(faults["time_ns"][at]))
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        self._known[number] = known
        return known

    def _resolve(self, raw: _Raw, space: int, time_ns: int) -> int:
        frames, addresses = array("I"), array("Q")
        kernel = self._kernel_places(raw)
        found = self._user_places(raw, space, time_ns)
        user, gap, ended = self._walked(found, bool(raw.caller))
        truncated = raw.truncated and len(user) >= len(raw.user)
        for address, place in (*kernel, *user):
            addresses.append(address)
            frames.append(self._place_ids.setdefault(place, len(self.places)))
            if frames[-1] == len(self.places):
                self.places.append(place)
                self._found(place)
        if not frames:
            return 0
        key = frames.tobytes()
        number = self._numbers.get(key)
        if number is None:
            if len(self.stacks) > MOST_STACKS:
                self.refused += 1
                return 0
            number = self._numbers[key] = len(self.stacks)
            gap += len(kernel) if gap >= 0 else 0
            self.stacks.append(Stack(frames, addresses, truncated, gap, ended))
        return number

    def _kernel_places(self, raw: _Raw) -> list[tuple[int, Place]]:
        addresses = raw.kernel.tolist()
        if not addresses:
            return []
        start = _entered(self._kernel_names(addresses))
        return [(ip, Place(True, "", ip, returns=True)) for ip in addresses[start:]]

    def _user_places(self, raw: _Raw, space: int, time_ns: int) -> list[tuple[int, Place]]:
        """The frames by frame pointers, after the first the one that may have called it."""
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
        places = []
        offsets = (ips + shifts).tolist()
        exact = 0 if len(raw.kernel) else 1  # so many are no return addresses
        each = zip(ips.tolist(), regions.tolist(), offsets, strict=True)
        for index, (ip, region, offset) in enumerate(each):
            name, file = self._regions[region].name, self._regions[region].file
            returns = index >= exact
            if name.startswith(NO_FILE):
                place = Place(False, name, offset, raw.tgid, returns, address=ip)
            elif name.startswith("/") or name == "[vdso]":
                place = Place(False, name, offset, returns=returns, file=file)
            else:
                place = Place(False, name, ip, raw.tgid, returns, address=ip)
            places.append((ip, place))
        return places

    def _walked(
        self, found: list[tuple[int, Place]], has_caller: bool
    ) -> tuple[list[tuple[int, Place]], int, bool]:
        """Of frames found by frame pointers those that are callers, and where one may be missing.

        A function that keeps no frame pointer leaves its caller's in place, and so hides its
        caller; one that uses the register for something else hides all there is above it. With
        `has_caller`, the second frame was not found so: it holds where the first function has
        pushed nothing. Third: whether the walk came to the thread's beginning.
        """
        if not found:
            return [], -1, False
        rule = self._rule(found[0][1])
        pushed_nothing = rule is not None and (rule.register, rule.offset) == (RSP, 8)
        if has_caller and not pushed_nothing:
            del found[1]
        walked, gap = [], -1
        for index, (address, place) in enumerate(found):
            walked.append((address, place))
            rule = self._rule(place)
            if rule is not None and rule.outermost:
                return walked, gap, True
            if rule is None or rule.register == RBP:
                continue
            if gap < 0 and not (index == 0 and has_caller and pushed_nothing):
                gap = index
            if not rule.keeps_rbp:
                break
        return walked, gap, False


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
            return None  # one between was lost
        ips[first : first + count] = part["ips"][:count]
        known += count
    if known < kernel + user:
        return None
    # The frame pointer that ends a chain is 0: no code is there.
    mine = ips[kernel:]
    mine = mine[mine > np.uint64(0xFFF)]
    whose = int(head["tgid"]), int(head["mm"])
    return _Raw(*whose, ips[:kernel], mine, len(mine) >= MOST_USER, int(head["caller"]))


def _entered(names: Sequence[str]) -> int:
    """How many of the innermost kernel frames are the fault's own handling, or ours."""
    for entry in _ENTRIES:
        if entry in names:
            return names.index(entry) + 1
    start = 0
    while start < len(names) and (not names[start] or names[start].startswith(_HOOKS)):
        start += 1
    return start
