"""Python's frames in their places among a stack's native ones."""

from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.callstacks.test_frames import names_of
from tracer.callstacks.frames import REPLACED, TRUNCATED, Frame, FrameNames
from tracer.callstacks.locations import Location
from tracer.callstacks.python_frames import (
    NO_CODE,
    SEVERAL,
    TRUNCATED_PYTHON,
    UNREADABLE_PYTHON,
    Part,
    merged,
    shown,
)
from tracer.callstacks.records import PythonEnd
from tracer.callstacks.stacks import PYTHON, Stack
from tracer.callstacks.unwinding import End

MODULES = {
    "python": "/usr/bin/python3.11",
    "lib": "/opt/lib/libpython3.12.so.1.0",
    "libc": "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "ext": "/app/fast.cpython-311-x86_64-linux-gnu.so",
    "app": "/app/embedding",
    "kernel": "[kernel]",
    "old": "/usr/bin/python3.11 (deleted)",
    "jit": "[jit]",
}
EVAL = "python:eval"
START = ("python:run", "python:main", "libc:start", "python:_start")


def native(*words: str) -> list[tuple[Location, Frame]]:
    """Frames of a module each: "python:eval"."""
    found = []
    for at, word in enumerate(words):
        module, _, name = word.partition(":")
        kernel = module == "kernel"
        frame = Frame(kernel, name, 4, MODULES[module], None if kernel else 0x10)
        found.append((Location(kernel, MODULES[module], at), frame))
    return found


def python(words: str) -> list[Part]:
    """Functions, innermost first; "f|": C code called it."""
    found = []
    for word in words.split():
        name = word.rstrip("|")
        location = Location(False, "/app/x.py", 7, function=name)
        frame = Frame(False, name, 0, "/app/x.py", None, "", "/app/x.py", 7, python=True)
        found.append(Part(location, frame, word.endswith("|")))
    return found


def put_together(
    frames: Sequence[str],
    functions: str,
    loops: Sequence[int],
    *,
    whole: bool = True,
    keep: bool = False,
) -> str:
    found = merged(native(*frames), python(functions), loops, whole=whole, keep=keep)
    for each in found:
        assert each.at < 0 or each.location.offset == each.at
        assert (each.at < 0) == each.frame.python
    return " ".join(each.frame.function for each in found)


# Native frames, innermost first, Python's, which native frame each loop is, and what is shown.
@pytest.mark.parametrize(
    ("frames", "functions", "loops", "expected"),
    [
        ((EVAL, *START), "f g main|", [0], "f g main"),
        (("python:list_append", EVAL, *START), "f main|", [1], "f main"),
        (("libc:malloc", "python:list_append", EVAL, *START), "f main|", [2], "f main"),
        # What an extension does is shown, with what it calls, and so is what called back.
        (("ext:fill", EVAL, *START), "f main|", [1], "fill f main"),
        (("libc:memset", "ext:fill", "python:call", EVAL, *START), "f|", [3], "memset fill f"),
        (
            (EVAL, "python:call", "ext:apply", "python:vectorcall", EVAL, *START),
            *("key| f main|", [0, 4], "key apply f main"),
        ),
        ((EVAL, "python:sort", EVAL, *START), "key| f main|", [0, 2], "key f main"),
        ((EVAL, "python:sort", EVAL, "lib:map", EVAL), "a| b c| d|", [0, 2, 4], "a b c d"),
        # The kernel's stay: it is they that took the fault.
        (
            ("kernel:copy", "kernel:read", "libc:read", "python:io_read", EVAL, *START),
            *("f|", [4], "copy read f"),
        ),
        # A program that has a Python in it, as a library.
        (
            ("lib:list", "lib:eval", "lib:call", "app:handle", "app:main", "libc:start", "app:on"),
            *("f main|", [1], "f main handle main start on"),
        ),
        # One that has it linked in: of that the interpreter's functions go by their names.
        (
            *(("app:PyList_New", "app:_PyEval_Eval", "app:Py_RunMain", "app:main", "libc:start"),),
            *("f|", [1], "f main"),
        ),
        (
            *(("app:fill", "app:_PyObject_Call", "app:_PyEval_Eval", "app:run", "ext:Py_x"),),
            *("f|", [2], "fill f run Py_x"),
        ),
        # What -X perf makes for each function calls the loop; what another JIT made stays.
        (
            (EVAL, "jit:py::f", "python:call", EVAL, "jit:py::main", *START),
            *("f| main|", [0, 3], "f main"),
        ),
        ((EVAL, "jit:py::f", "jit:other", "python:call"), "f|", [0], "f other"),
        (("jit:kernel", EVAL, "python:call", "jit:other"), "f|", [1], "kernel f other"),
        # It has been updated meanwhile.
        (("old:list", "old:eval", "old:main"), "f|", [1], "f"),
        # Another extension further out than the last loop: a thread that it has begun.
        ((EVAL, "python:call", "ext:thread", "libc:clone"), "f|", [0], "f thread"),
        # Without Python's frames the stack is as it is.
        ((EVAL, *START), "", [], "eval run main start _start"),
        ((EVAL, *START), "", [0], "eval run main start _start"),
    ],
)  # fmt: skip
def test_frames_in_their_places(
    frames: Sequence[str], functions: str, loops: list[int], expected: str
) -> None:
    assert put_together(frames, functions, loops) == expected


def test_those_of_the_interpreter_are_kept_if_wanted() -> None:
    """Each group stands before the loop that runs it."""
    frames = (EVAL, "python:sort", "python:eval2", *START)
    assert put_together(frames, "key| f main|", [0, 2], keep=True) == (
        "key eval sort f main eval2 run main start _start"
    )
    assert put_together(frames, "f|", [-1], keep=True) == (
        "eval sort eval2 run main start _start f"
    )


@pytest.mark.parametrize("loops", [[], [-1], [-1, -1], [99], [-5, 99]])
def test_loops_that_are_not_known(loops: list[int]) -> None:
    """The native stack ended before: what it has is further in."""
    frames = ("libc:memset", "ext:fill", "python:call")
    assert put_together(frames, "f| g|", loops) == "memset fill f g"


def test_a_native_stack_that_ends_between_two_loops() -> None:
    frames = ("ext:inner", "python:call", EVAL, "python:call", "ext:outer")
    assert put_together(frames, "a b| c| d|", [2, -1, -1]) == "inner a b outer c d"


def test_a_loop_that_is_not_known_among_some_that_are() -> None:
    """What is left of the native frames comes before its group, and so before all further ones."""
    frames = ("ext:inner", EVAL, "ext:middle", EVAL, "ext:outer")
    assert put_together(frames, "a| b| c|", [1, -1, 3]) == "inner a middle outer b c"
    assert put_together(frames, "a| b|", [-1, 3]) == "inner middle outer a b"
    assert put_together(frames, "a|", [-1], keep=True) == "inner eval middle eval outer a"


def test_loops_in_another_order_are_not_believed() -> None:
    frames = (EVAL, "ext:x", EVAL, *START)
    assert put_together(frames, "a| b|", [2, 0]) == "x a b"
    assert put_together(frames, "a| b|", [2, 2]) == "x a b"


def test_when_pythons_are_not_whole_the_interpreter_s_stand_for_the_rest() -> None:
    frames = (EVAL, "python:sort", "python:eval2", *START)
    assert put_together(frames, "key|", [0], whole=False) == (
        "key sort eval2 run main start _start"
    )


PIECES = st.sampled_from(["python:p", "lib:l", "libc:c", "ext:e", "app:a", "kernel:k", "old:o"])


@given(
    st.lists(PIECES, max_size=12),
    st.lists(st.sampled_from(["f", "f|"]), max_size=8),
    st.lists(st.integers(-2, 13), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_any_frames(
    frames: list[str], functions: list[str], loops: list[int], whole: bool, keep: bool
) -> None:
    """All of Python's are there, and of the others all that is somebody else's; in their order."""
    loops = [at for at in loops if not 0 <= at < len(frames) or frames[at][0] in "plo"]
    parts = python(" ".join(functions))
    given_ = native(*frames)
    found = merged(given_, parts, loops, whole=whole, keep=keep)
    assert [each.location for each in found if each.at < 0] == [each.location for each in parts]
    order = [each.at for each in found if each.at >= 0]
    assert order == sorted(set(order))
    assert all((each.location, each.frame) == given_[each.at] for each in found if each.at >= 0)
    wanted = {at for at, word in enumerate(frames) if keep or not parts or word[0] in "aek"}
    assert wanted <= {*order}


# -- of a stack


def stack_of(
    frames: Sequence[str],
    functions: str,
    loops: tuple[int, ...] = (),
    end: PythonEnd = PythonEnd.WHOLE,
    *,
    truncated: bool = False,
    native_end: End = End.OUTERMOST,
    unknown: int = -1,
) -> tuple[FrameNames, list[Location], Stack]:
    """`unknown`: the number of a Python function whose code object has not come."""
    names = names_of()
    locations, each = [], array("I")
    for location, frame in native(*frames):
        locations.append(location)
        names._known[location] = frame
    for at, part in enumerate(python(functions)):
        location = Location(False, PYTHON, 0x1234) if at == unknown else part.location
        each.append(2 * len(locations) + part.entry)
        locations.append(location)
    stack = Stack(
        array("I", range(len(frames))),
        array("Q", range(len(frames))),
        *(truncated, -1, native_end == End.OUTERMOST, native_end),
        *(each, end, loops),
    )
    return names, locations, stack


def test_a_python_function_has_a_source_line() -> None:
    names, locations, stack = stack_of((EVAL,), "A.f.<locals>.g|", (0,))
    ((location, frame, at),), note, noted = shown(names, locations, stack)
    assert frame == Frame(
        *(False, "A.f.<locals>.g", 0, "/app/x.py", None, "", "/app/x.py", 7), python=True
    )
    assert (frame.text(), location.function, at) == ("A.f.g", "A.f.<locals>.g", -1)
    assert (note, noted) == ("", -1)
    names.native = True
    assert [each.frame.function for each in shown(names, locations, stack)[0]] == [
        *("A.f.<locals>.g", "eval")
    ]


@pytest.mark.parametrize(
    ("end", "note", "noted"),
    [
        (PythonEnd.WHOLE, "", -1),
        (PythonEnd.LIMIT, TRUNCATED_PYTHON, 2),
        (PythonEnd.UNREADABLE, UNREADABLE_PYTHON, 2),
    ],
)
def test_the_note_is_on_the_last_of_pythons(end: PythonEnd, note: str, noted: int) -> None:
    made = stack_of(("ext:fill", EVAL, *START), "f g|", (1,), end)
    frames, said, at = shown(*made)
    assert (said, at) == (note, noted)
    assert (len(frames) == 3) == (end == PythonEnd.WHOLE)


@pytest.mark.parametrize(
    ("end", "note"), [(PythonEnd.SEVERAL, SEVERAL), (PythonEnd.UNREADABLE, UNREADABLE_PYTHON)]
)
def test_where_there_is_none_of_pythons(end: PythonEnd, note: str) -> None:
    frames, said, at = shown(*stack_of((EVAL, *START), "", (), end))
    assert (len(frames), said, at) == (5, note, 0)


def test_a_code_object_that_has_not_come() -> None:
    """The first of them has the note; the function has no name."""
    frames, note, noted = shown(*stack_of((EVAL, *START), "f g h|", (0,), unknown=1))
    assert [each.frame.text() for each in frames] == ["f", PYTHON, "h"]
    assert (note, noted) == (NO_CODE, 1)
    assert (frames[1].frame.module, frames[1].frame.python) == (PYTHON, False)


def test_a_native_stack_that_is_not_whole_says_so() -> None:
    """At its last frame, or the outermost where that is not shown."""
    cut = stack_of(("ext:a", EVAL, "ext:b"), "f|", (1,), truncated=True)
    frames, note, noted = shown(*cut)
    assert [each.frame.function for each in frames] == ["a", "f", "b"]
    assert (note, noted) == (TRUNCATED, 2)
    cut = stack_of(("ext:a", EVAL, "python:sort"), "f| g|", (1, -1), truncated=True)
    frames, note, noted = shown(*cut)
    assert [each.frame.function for each in frames] == ["a", "f", "g"]
    assert (note, noted) == (TRUNCATED, 2)
    lost = stack_of(("ext:a", "ext:b"), "f|", (-1,), native_end=End.REPLACED)
    frames, note, noted = shown(*lost)
    assert [each.frame.function for each in frames] == ["a", "b", "f"]
    assert (note, noted) == (REPLACED, 1)
