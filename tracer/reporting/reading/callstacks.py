"""FILE.stacks.csv: the call stacks that faults had (docs/csv.md, "Call stacks").

A report wants them outermost first. What is no function has a frame, too: where
there is no stack, and where one breaks off.
"""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tracer.common.text import without_tag
from tracer.common.types import I64, U32, Bools, Index
from tracer.reporting.reading.codes import combined
from tracer.reporting.reading.columns import Table, read_table, wrong
from tracer.reporting.reading.schema import STACKS

SUFFIX = ".stacks.csv"  # beside the CSV
KERNEL, USER, PYTHON = "kernel", "user", "python"
# Notes of the tracer's (docs/csv.md), and what is cut off in a file that is.
NO_POINTERS, TRUNCATED, CUT_OFF = "no frame pointers", "truncated", "cut off"
LATE = ("copy dropped", "copy too short")
NO_CALLER = ("no unwind rule", "no return address", "unreadable stack")
REPLACED = "code replaced"
LOCALS = ".<locals>"  # of a qualified name (PEP 3155)
GAP = "a caller may be missing"  # of a stack that was walked to its beginning all the same
PYTHON_LACKS = (
    *("Python frames truncated", "unreadable Python frames", "several Python interpreters"),
    "Python code not received",
)
MISSING = (
    *("no stack", NO_POINTERS, TRUNCATED, CUT_OFF, *LATE, *NO_CALLER, REPLACED, *PYTHON_LACKS),
    "broken",
)
OTHER = len(MISSING) - 1  # a note of which this program does not know
_NO_SYMBOLS = "no symbols: "  # a note that says nothing of callers


class Function(NamedTuple):
    """What a box of a flame graph is. `side` is "" where it is no function."""

    name: str
    side: str
    module: str
    known: bool = True  # False: there is no symbol, and the name is an offset or address

    @property
    def marked(self) -> str:
        """The name with the suffix by which flamegraph.pl and its like colour it."""
        suffix = "_[k]" if self.side == KERNEL else "_[j]" if self.module == "[jit]" else ""
        return self.name + suffix


class Location(NamedTuple):
    """A function and the line in it; "" and 0 where not known."""

    function: Function
    file: str
    line: int


@dataclass(frozen=True)
class CallStacks:
    """Stack n is `locations[flat[starts[n]:starts[n + 1]]]`, outermost first.

    Number 0 is that of faults without a stack. Where callers are missing, there is a
    location that says so. `broken[n]` is the word for what is missing, "" where the stack
    is whole, and `ends_in[n]` the module of the code behind which it is, where known.
    """

    functions: list[Function]
    locations: list[Location]
    function_of: I64  # by location: its number in `functions`
    flat: I64
    starts: I64
    broken: list[str]
    ends_in: list[str]
    ids: U32  # the file's own numbers, ascending: stack n is ids[n - 1]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """With number 0."""
        return len(self.broken)

    def stack(self, number: int) -> tuple[Location, ...]:
        """The frames of one, outermost first."""
        part = self.flat[self.starts[number] : self.starts[number + 1]]
        return tuple(self.locations[at] for at in part.tolist())

    def brief(self, number: int, most: int = 8) -> str:
        """The innermost functions of one, from there outwards: "memset ← fill ← main"."""
        names: list[str] = []
        nameless = ""  # the module of the last frame, if that has no function
        for location in self.stack(number)[::-1]:
            function = location.function
            module = "" if function.known else function.module
            if not module or module != nameless:  # further offsets in one file say no more
                names.append(function.name)
            nameless = module
        left = len(names) - most
        return " ← ".join(names[:most] + ([f"… {left} more"] if left > 0 else []))

    @property
    def innermost(self) -> I64:
        """By stack: the number of the function that faulted."""
        return np.asarray(self.function_of[self.flat[self.starts[1:] - 1]])

    def numbers(self, ids: U32) -> U32:
        """The numbers of stacks that the file numbers `ids`; 0 for those it does not have."""
        count = len(self.ids)
        if not count:
            return np.zeros(len(ids), np.uint32)
        if self.ids[-1] == count:  # 1, 2, 3 …: as the tracer writes them
            return np.where(ids <= count, ids, 0).astype(np.uint32)
        at = np.minimum(np.searchsorted(self.ids, ids), count - 1)
        return np.where(self.ids[at] == ids, at + 1, 0).astype(np.uint32)


def read_callstacks(path: str) -> CallStacks:
    """Raises TraceError(code=Exit.INPUT) that names the line where the file is not right."""
    table = read_table(path, STACKS, "--stacks --csv")
    order = _checked(path, table)
    stack = table.numbers["stack"][order]
    functions, locations, function_of, codes = _named(table)
    heads = np.flatnonzero(np.diff(stack, prepend=0))  # a stack's innermost frame
    ends = heads + np.diff(heads, append=len(stack)) - 1  # its outermost
    notes, broken, ends_in = _notes(table, order, heads, ends)

    # Each row's location, and before it, outermost first, one that says what is missing there.
    noted = notes > 0
    after = np.cumsum(1 + noted)  # locations of the rows up to here
    starts = np.concatenate([[0, 1], 1 + after[ends]]).astype(np.int64)
    flat = np.zeros(starts[-1], np.int64)
    of = np.repeat(np.arange(len(heads)), ends - heads + 1)
    own = after - noted - 1  # where each row's location is, counted from the innermost
    at = starts[of + 2] - 1 - (own - own[heads[of]])
    flat[at] = codes[order]
    odd = len(locations)
    flat[at[noted] - 1] = odd + notes[noted]
    flat[0] = odd
    for word in MISSING:
        functions.append(Function(f"({word})", "", ""))
        locations.append(Location(functions[-1], "", 0))
    function_of = np.append(function_of, len(functions) - len(MISSING) + np.arange(len(MISSING)))
    return CallStacks(
        functions=functions,
        locations=locations,
        function_of=function_of,
        flat=flat,
        starts=starts,
        broken=["", *broken],
        ends_in=["", *ends_in],
        ids=stack[heads],
        notes=table.notes,
    )


def _notes(
    table: Table,
    order: Index,
    heads: Index,
    ends: Index,
) -> tuple[I64, list[str], list[str]]:
    """By row: the number in MISSING of what is missing outside of it, 0 for nothing.

    Then by stack: in which way it is broken, and the module of the code that did it.
    """
    note, module = table.words["note"], table.words["module"]
    numbers = np.array([_number(word) for word in note.words])
    notes = (numbers if len(numbers) else np.zeros(1, np.int64))[note.codes[order]]
    if table.notes and len(ends) and not notes[ends[-1]]:  # the file breaks off: so may its last
        notes[ends[-1]] = MISSING.index(CUT_OFF)
    broken, blamed = [], []
    modules = module.codes[order]
    for head, end in zip(heads.tolist(), ends.tolist(), strict=True):
        first = head + int(np.argmax(notes[head : end + 1] > 0))  # the innermost with a note
        word, at = MISSING[notes[end]] if notes[end] else "", end
        if not word and notes[first]:
            word, at = GAP, first
        broken.append(word)
        blamed.append(module.words[modules[at]] if word else "")
    return notes.astype(np.int64), broken, blamed


def _number(note: str) -> int:
    """The number in MISSING of what a note says, 0 for nothing."""
    if not note or note.startswith(_NO_SYMBOLS):
        return 0
    return MISSING.index(note) if note in MISSING[1:] else OTHER


def _checked(path: str, table: Table) -> Index:
    """The rows by stack, from the innermost frame outwards."""
    stack, frame = table.numbers["stack"], table.numbers["frame"]
    order = np.lexsort((frame, stack))
    side = table.words["side"]
    kernel = side.mask(KERNEL)
    _refuse(path, stack == 0, "has stack number 0: they start at 1")
    known = kernel | side.mask(USER) | side.mask(PYTHON)
    _refuse(path, ~known, "has a side that is neither kernel, user nor python")
    first = np.diff(stack[order], prepend=0) != 0
    due = np.where(
        first, 0, np.concatenate([[0], frame[order][:-1].astype(np.int64) + 1])[: len(order)]
    )
    astray = np.zeros(len(order), np.bool_)
    astray[order] = frame[order] != due
    _refuse(path, astray, "has a frame number that is out of sequence")
    above = np.zeros(len(order), np.bool_)
    above[order[1:]] = ~first[1:] & kernel[order[1:]] & ~kernel[order[:-1]]
    _refuse(path, above, "has a kernel frame as the caller of a user frame")
    return order


def _refuse(path: str, rows: Bools, why: str) -> None:
    if rows.any():
        raise wrong(path, f"line {int(rows.argmax()) + 2} {why}", "--stacks --csv")


def _named(table: Table) -> tuple[list[Function], list[Location], I64, I64]:
    """The functions there are, the locations, each location's function, and each row's location."""
    function, module, side = (table.words[name] for name in ("function", "module", "side"))
    file, line = table.words["file"], table.numbers["line"]
    nameless = np.array([not word for word in function.words] or [True])[function.codes]
    # Where there is no symbol, the offset in the file; without a file, the address.
    plain = np.array([_is_path(word) for word in module.words] or [False])[module.codes]
    offset = np.where(nameless & plain, table.numbers["module_offset"], 0)
    unmapped = np.array([not word for word in module.words] or [False])[module.codes]
    offset = np.where(nameless & unmapped, table.numbers["address"], offset)
    offsets, offset_codes = np.unique(offset, return_inverse=True)
    symbol, symbols = combined(
        (function.codes, len(function.words)),
        (module.codes, len(module.words)),
        (side.codes, len(side.words)),
    )
    by_function, meanings = combined(
        (symbol, len(symbols)), (offset_codes.reshape(-1), len(offsets))
    )
    functions = []
    for at, offset_code in meanings:
        name, of, on = symbols[at]
        shown = _name(function.words[name], module.words[of], int(offsets[offset_code]))
        if side.words[on] == PYTHON:
            shown = shown.replace(LOCALS, "")
        known = bool(function.words[name])
        functions.append(Function(shown, side.words[on], module.words[of], known))
    lines, line_codes = np.unique(line, return_inverse=True)
    spot, spots = combined((file.codes, len(file.words)), (line_codes.reshape(-1), len(lines)))
    by_location, meanings = combined((by_function, len(functions)), (spot, len(spots)))
    locations = [
        Location(functions[at], file.words[spots[line_at][0]], int(lines[spots[line_at][1]]))
        for at, line_at in meanings
    ]
    function_of = np.array([at for at, _ in meanings], np.int64)
    return functions, locations, function_of, by_location.astype(np.int64)


def _is_path(module: str) -> bool:
    return bool(module) and not (module.startswith("[") and module.endswith("]"))


def _name(function: str, module: str, offset: int) -> str:
    if function:
        return function
    name = without_tag(os.path.basename(module) or module) if _is_path(module) else module
    if not offset:
        return name or "(not known)"
    return f"{name}+{offset:#x}" if name else f"{offset:#x}"
