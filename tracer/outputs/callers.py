"""Call stacks by the memory their faults gained, and how many stacks are incomplete."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tracer.callstacks.demangled import is_cpp, without_types
from tracer.callstacks.frames import (
    COPY_DROPPED,
    COPY_TOO_SHORT,
    NO_FRAME_POINTERS,
    NO_RETURN_ADDRESS,
    NO_RULE,
    REPLACED,
    TRUNCATED,
    UNREADABLE,
    Frame,
    FrameNames,
)
from tracer.callstacks.python_frames import (
    NO_CODE,
    SEVERAL,
    TRUNCATED_PYTHON,
    UNREADABLE_PYTHON,
    shown,
)
from tracer.callstacks.source_lines import SourceLines
from tracer.callstacks.stacks import Stacks
from tracer.callstacks.unwinding import End
from tracer.common import units
from tracer.common.layout import Cell, Column
from tracer.common.pages import PAGE_SIZE
from tracer.common.text import printable, without_tag
from tracer.common.types import I64
from tracer.common.units import Glyphs
from tracer.model.rows import Names, Rows
from tracer.wire.shared import PYTHON_FRAMES, STACK_USER

MOST_STACKS = 8  # shown
_WIDEST = 160  # characters of a stack, where no terminal is narrower
_MOST_MERGED = 4  # stacks that may come to one line
_MOST_MODULES = 3  # named


class _Lack(NamedTuple):
    """Why callers are missing, by the notes of the frames they are missing of."""

    notes: tuple[str, ...]
    where: str  # before the modules
    then: str  # after them: what to do


_NOT_BY_RULES = f"{NO_FRAME_POINTERS}, by no unwind rules"  # a note that distinguishes the two
_LACKS = (
    _Lack(
        (_NOT_BY_RULES,),
        "in code without frame pointers",
        "build it with -fno-omit-frame-pointer: 32-bit programs are not walked by unwind rules, nor"
        " is any where the kernel refuses that",
    ),
    _Lack(
        (NO_FRAME_POINTERS,),
        "in code without unwind information and without frame pointers",
        "have its runtime keep frame pointers (-XX:+PreserveFramePointer, say), or build it with"
        " one or the other (-fno-omit-frame-pointer, .cfi directives in assembly)",
    ),
    _Lack(
        (COPY_DROPPED, COPY_TOO_SHORT),
        "in code whose unwind rules came too late",
        "of a copy of the stack taken meanwhile nothing was kept, or too little; trace again, or"
        " longer",
    ),
    _Lack(
        (NO_RULE, NO_RETURN_ADDRESS, UNREADABLE),
        "in code whose unwind information leads to no caller",
        "it is assembly with wrong .cfi directives, or the stack was overwritten or swapped out",
    ),
    _Lack(
        (REPLACED,),
        "in code that replaced other code at the same addresses",
        "the first stacks there were walked by the other code's rules; trace longer",
    ),
)


_PYTHON_LACKS = (
    ((SEVERAL,), "their thread is in several interpreters, and which one is running is not known"),
    ((TRUNCATED_PYTHON,), f"there are more than {PYTHON_FRAMES}"),
    ((UNREADABLE_PYTHON, NO_CODE), "its memory could not be read, or there was no room for it"),
)


class Callers:
    """An Output that counts faults and pages by call stack, for a table at the end."""

    def __init__(self, stacks: Stacks, names: FrameNames) -> None:
        self._stacks, self._names = stacks, names
        self._faults: I64 = np.zeros(1, np.int64)
        self._pages: I64 = np.zeros(1, np.int64)

    def write(self, rows: Rows, names: Names) -> None:
        """Count one batch."""
        if not len(rows):
            return
        count = len(self._stacks.stacks)
        if count > len(self._faults):
            more = np.zeros(count, np.int64)
            self._faults = np.append(self._faults, more)
            self._pages = np.append(self._pages, more)
        numbers = rows["stack"]
        self._faults += np.bincount(numbers, minlength=len(self._faults))
        weights = np.bincount(numbers, rows["pages"], minlength=len(self._pages))
        self._pages += weights.astype(np.int64)

    def close(self) -> None:
        """Nothing to release."""

    def table(
        self, lines: SourceLines, glyphs: Glyphs
    ) -> tuple[list[Column], list[dict[str, Cell]]]:
        """The stacks that gained most memory, released since or not; the faulting code first."""
        rows: list[dict[str, Cell]] = [
            {
                "GROSS": (units.size(size), "bold"),
                "FAULTS": (str(faults), ""),
                "CODE": (glyphs.called_by.join(words), ""),
            }
            for size, faults, words in self.top(MOST_STACKS, lines)
        ]
        if not rows:
            return [], []
        widest = max(len(row["CODE"][0]) for row in rows)
        columns = [
            Column(name, wide, wide, rank=rank, right=True)
            for name, rank in (("GROSS", 2), ("FAULTS", 3))
            for wide in (max(len(name), *(len(row[name][0]) for row in rows)),)
        ]
        return [*columns, Column("CODE", 20, max(20, widest), rank=0, rest=True)], rows

    def _words(self, at: int, lines: SourceLines) -> list[str]:
        words: list[str] = []
        frames, _, _ = shown(self._names, self._stacks.locations, self._stacks.stacks[at])
        nameless, in_python = "", False  # of the last frame: its module if it has no function
        for location, frame, _ in frames:
            complete = lines.complete(frame, location)
            if not frame.function and frame.module and frame.module == nameless:
                continue  # offsets in one file say no more than one of them
            nameless = "" if frame.function else frame.module
            word = _short(frame, complete)
            if complete.line and (not words or (frame.python and not in_python)):
                word += f" ({complete.file.rpartition('/')[2]}:{complete.line})"
            in_python |= frame.python
            words.append(printable(word))
            if sum(map(len, words)) > _WIDEST:
                break
        return words

    def top(self, count: int, lines: SourceLines) -> list[tuple[int, int, list[str]]]:
        """The stacks that gained most memory so far: bytes, faults, frames in printable words."""
        order = np.lexsort((-self._faults, -self._pages))[: _MOST_MERGED * (count + 1)].tolist()
        sums: dict[tuple[str, ...], tuple[int, int]] = {}
        for at in order:
            if at and self._faults[at]:
                words = tuple(self._words(at, lines))  # call sites in one function are one line
                pages, faults = sums.get(words, (0, 0))
                sums[words] = pages + int(self._pages[at]), faults + int(self._faults[at])
        leading = sorted(sums.items(), key=lambda item: item[1], reverse=True)[:count]
        return [(pages * PAGE_SIZE, faults, list(words)) for words, (pages, faults) in leading]

    def leading(self, count: int) -> list[tuple[int, int, list[str]]]:
        """`top` while the trace runs, with names not yet demangled."""
        return self.top(count, SourceLines())

    def notes(self) -> list[str]:
        """What is missing from the stacks, and what to do about it."""
        notes = []
        total = int(self._pages.sum())
        marked = self._marked()
        for lack in _LACKS:
            broken = [at for note in lack.notes for at in marked.get(note, ())]
            if pages := int(self._pages[broken].sum()):
                notes.append(
                    f"stacks: {units.share(pages, total)} of the memory gained has incomplete"
                    f" stacks: their callers are missing, {lack.where}"
                    f" ({self._modules(broken)}); {lack.then}"
                )
        if cut := marked.get(TRUNCATED):
            notes.append(
                f"stacks: {len(cut)} are truncated, with more than {STACK_USER} frames: the"
                " outermost are missing"
            )
        for words, why in _PYTHON_LACKS:
            if lacking := [at for note in words for at in marked.get(note, ())]:
                notes.append(
                    f"stacks: {int(self._faults[lacking].sum())} faults have C frames of Python"
                    f" in place of its own, or not all of these: {why}"
                )
        if self._faults[0]:
            notes.append(f"stacks: {int(self._faults[0])} faults have no stack")
        if self._stacks.refused:
            notes.append(
                f"stacks: {self._stacks.refused} more were not stored, beyond the limit of"
                f" {len(self._stacks.stacks) - 1} different ones"
            )
        return notes

    def _marked(self) -> dict[str, list[int]]:
        """The stacks that faults had, by their note."""
        found: dict[str, list[int]] = {}
        for at in (np.flatnonzero(self._faults[1:]) + 1).tolist():
            stack = self._stacks.stacks[at]
            _, note, _ = shown(self._names, self._stacks.locations, stack)
            if note == NO_FRAME_POINTERS and stack.end == End.NOT_WALKED:
                note = _NOT_BY_RULES
            if note:
                found.setdefault(note, []).append(at)
        return found

    def _modules(self, stacks: Sequence[int]) -> str:
        """The modules in which most of these break off, by pages."""
        weights: dict[str, int] = {}
        for at in stacks:
            location = self._stacks.locations[self._stacks.stacks[at].frames[-1]]
            name = self._names.frame(location).module.rpartition("/")[2] or "unknown"
            weights[name] = weights.get(name, 0) + int(self._pages[at])
        order = sorted(weights, key=lambda name: -weights[name])
        shown = ", ".join(printable(name) for name in order[:_MOST_MODULES])
        return shown + (", …" if len(order) > _MOST_MODULES else "")


def _short(frame: Frame, complete: Frame) -> str:
    """The short name of a frame: C++ functions without parameter and return types."""
    text = without_tag(complete.text())
    return without_types(text) if is_cpp(frame.function) else text
