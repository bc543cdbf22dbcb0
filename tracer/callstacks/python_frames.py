"""Python's frames in a stack: in place of the interpreter's own C frames, or between them.

Python's frames come in groups, each run by one call of the evaluation loop
(_PyEval_EvalFrameDefault, Python/ceval.c). Where that call is in the native stack is where they
belong.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tracer.callstacks.frames import Frame, FrameNames
from tracer.callstacks.locations import Location
from tracer.callstacks.records import PythonEnd
from tracer.callstacks.stacks import Stack

# The interpreter's own files, and those of the C library, by which it does its work.
_INTERPRETER = re.compile(r"(lib)?python3?(\.\d+)?[a-z]*(\.so[.\d]*)?( \(deleted\))?")
_NAMES = ("Py", "_Py")  # of its functions
_C_LIBRARY = re.compile(r"(libc|libm|libpthread|libdl|libutil|librt|ld-linux-x86-64)[-.].*")


TRUNCATED_PYTHON = "Python frames truncated"
UNREADABLE_PYTHON = "unreadable Python frames"
SEVERAL = "several Python interpreters"  # in this thread: which one is running is not known
NO_CODE = "Python code not received"
_NOTES = {
    PythonEnd.LIMIT: TRUNCATED_PYTHON,
    PythonEnd.UNREADABLE: UNREADABLE_PYTHON,
    PythonEnd.SEVERAL: SEVERAL,
}


class Shown(NamedTuple):
    """A frame as it is shown, `at` that index of the stack's native frames; -1: Python's."""

    location: Location
    frame: Frame
    at: int


class Part(NamedTuple):
    """One of Python's frames; `entry`: C code called it."""

    location: Location
    frame: Frame
    entry: bool


def shown(
    names: FrameNames, locations: Sequence[Location], stack: Stack
) -> tuple[list[Shown], str, int]:
    """A stack's frames, innermost first; why it is not whole, and of which frame that is said.

    "" and -1 where it is.
    """
    native = [(locations[at], names.frame(locations[at])) for at in stack.frames]
    note, noted = names.note(locations, stack)
    python = []
    for word in stack.python:
        location = locations[word >> 1]
        python.append(Part(location, names.frame(location), bool(word & 1)))
    frames = merged(
        native,
        python,
        stack.loops,
        whole=stack.python_end == PythonEnd.WHOLE,
        keep=names.native,
    )
    if note:
        after = [number for number, each in enumerate(frames) if each.at >= noted]
        return frames, note, after[0] if after else len(frames) - 1
    ours = [number for number, each in enumerate(frames) if each.at < 0]
    for number in ours:
        if not frames[number].frame.function:
            return frames, NO_CODE, number
    note = _NOTES.get(stack.python_end, "")
    return frames, note, (ours[-1] if ours else 0) if note else -1


def merged(
    native: Sequence[tuple[Location, Frame]],
    python: Sequence[Part],
    loops: Sequence[int],
    *,
    whole: bool,
    keep: bool = False,
) -> list[Shown]:
    """A stack's frames, innermost first.

    `loops`: which of `native` each group of `python` was run by; -1: that is not among them.
    `whole`: `python` goes up to the outermost. `keep` the frames of the interpreter, and what it
    called, which Python's stand for.
    """
    frames = [Shown(location, frame, at) for at, (location, frame) in enumerate(native)]
    if not python:
        return frames
    own = next((frames[at].frame.module for at in loops if 0 <= at < len(frames)), "")
    out: list[Shown] = []
    start = 0
    for number, group in enumerate(_groups(python)):
        at = loops[number] if number < len(loops) else -1
        if start <= at < len(frames):
            out += frames[start:at] if keep else _foreign(frames[start:at], own)
            start = at if keep else at + 1 + _has_trampoline(frames, at + 1)
        else:  # the native frames were not followed so far
            out += frames[start:] if keep else _foreign(frames[start:], own)
            start = len(frames)
        out += group
    return out + (frames[start:] if keep or not whole else _foreign(frames[start:], own))


def _has_trampoline(frames: Sequence[Shown], at: int) -> bool:
    """Whether a frame that called the evaluation loop is what `-X perf` made for the function."""
    return at < len(frames) and frames[at].frame.module == "[jit]"


def _groups(python: Sequence[Part]) -> list[list[Shown]]:
    groups: list[list[Shown]] = [[]]
    for part in python:
        groups[-1].append(Shown(part.location, part.frame, -1))
        if part.entry:
            groups.append([])
    return [group for group in groups if group]


def _foreign(frames: Sequence[Shown], own: str) -> list[Shown]:
    """Those of the frames that are not the interpreter's, nor what it calls itself.

    What an extension calls stays.
    """
    last = -1
    for at, each in enumerate(frames):
        name = each.frame.module.rpartition("/")[2]
        if not (each.frame.kernel or _is_own(each, own) or _C_LIBRARY.fullmatch(name)):
            last = at
    return [
        each
        for at, each in enumerate(frames)
        if each.frame.kernel or (at <= last and not _is_own(each, own))
    ]


def _is_own(each: Shown, own: str) -> bool:
    module = each.frame.module
    if _INTERPRETER.fullmatch(module.rpartition("/")[2]):
        return True
    # A program that has the interpreter linked in has code of its own as well.
    return module == own and each.frame.function.startswith(_NAMES)
