"""Call stacks of code without frame pointers: each frame of each fault is known, on every probe.

A program of programs/golden takes all faults of all scenarios in one run, in two rounds: code that
is new to the tracer, and code whose unwind rules the kernel has. Each stack is to be whole.
"""

import re
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.live import golden
from tests.live.tracing import Traced, trace
from tracer.callstacks.frames import TRUNCATED
from tracer.probes.choose import Attached
from tracer.session.plan import Plan
from tracer.wire.shared import STACK_USER

FIRST, SECOND = 3, 5  # golden.h
LIBRARY = "…"  # frames of the C library or the vdso, whose names a stripped file lacks
MOST_IN_LIBRARY = 12
_IN_STATIC = re.compile(r"golden-static\+(0x[0-9a-f]+)")

MAIN = ["main", LIBRARY, "_start"]
SIGNAL = ["signal_touches", "signal_handles", LIBRARY]
# Innermost first.
STACKS: dict[str, list[str]] = {
    "deep": ["deep_touches", "deep_third", "deep_second", "deep_first", *MAIN],
    "sort": ["sort_compares", LIBRARY, "sort_outer", *MAIN],
    "search": ["search_compares", LIBRARY, "search_outer", *MAIN],
    "set": [LIBRARY, "set_outer", *MAIN],
    "read": [LIBRARY, "syscall", "read_reads", "read_outer", *MAIN],
    "clock": [LIBRARY, "clock_reads", "clock_outer", *MAIN],
    "tail": ["tail_touches", "tail_outer", *MAIN],
    "noreturn": ["noreturn_touches", "noreturn_last", "noreturn_outer", *MAIN],
    "aligned": ["aligned_touches", "aligned_frame", "aligned_simple", "aligned_outer", *MAIN],
    "sized": ["sized_touches", "sized_frame", "sized_outer", *MAIN],
    "large": ["large_touches", "large_frame", "large_outer", *MAIN],
    "hundred": [*["hundred_descends"] * 100, "hundred_outer", *MAIN],
    "zero": ["zero_touches", "zero_frame", "zero_outer", *MAIN],
    "general": ["general_touches", "general_outer", *MAIN],
    "cfi": ["cfi_touches", "cfi_pushes", "cfi_outer", *MAIN],
    "bare": ["bare_touches", "bare_calls", "bare_outer", *MAIN],
    "entry": ["entry_touches", "entry_calls", "entry_outer", *MAIN],
    "signal": [*SIGNAL, "signal_traps", "signal_outer", *MAIN],
    "signal-first": [*SIGNAL, "signal_first", "signal_first_outer", *MAIN],
    "threads": ["thread_touches", "thread_middle", "thread_begins", LIBRARY],
    "fork": ["fork_touches", "fork_middle", "fork_outer", *MAIN],
    "vfork": ["vfork_touches", "vfork_becomes", "vfork_outer", *MAIN],
    "vfork-exec": ["again_touches", "again_outer", *MAIN],
    "exec": ["again_touches", "again_outer", *MAIN],
}
ALTERNATE = [*SIGNAL, "signal_traps", "signal_stack_outer", *MAIN]  # sigaltstack(2)
LINKED = {"linked": ["linked_touches", "linked_calls", "linked_outer", *MAIN]}
OPENED = [
    [f"{library}_touches", f"{library}_calls", "opened_outer", "open_libraries", *MAIN]
    for library in ("one", "two")
]
ALIKE = {
    name: [[f"{name}_touches", caller, f"{name}_outer", *MAIN] for caller in callers]
    for name, callers in {
        "equal": ("equal_one", "equal_two"),
        "far": ("far_one", "far_two"),
    }.items()
}
COROUTINE = ["coroutine_touches", "coroutine_begins", LIBRARY]
_EVERY = [
    *STACKS.values(),
    *LINKED.values(),
    *OPENED,
    *ALIKE["equal"],
    *ALIKE["far"],
    COROUTINE,
    ALTERNATE,
]
_OURS = {name for each in _EVERY for name in each} - {LIBRARY}
_OURS |= {"tail_replaced", "tail_middle", "noreturn_next", "signal_before"}
_OURS |= {"start_threads", "coroutine_outer", "two_hundred_outer"}


@pytest.fixture(scope="module")
def found(with_stacks: Attached) -> Traced:
    return trace_of("golden", with_stacks)


def trace_of(program: str, with_stacks: Attached) -> Traced:
    """Both rounds of one of the programs."""
    golden.build()
    with_stacks.program.reset()
    return trace(with_stacks, program, plan=Plan(snapshot_interval_ms=600_000, stacks=True))


def named(stack: Sequence[str]) -> list[str]:
    """The frames by function, also those of golden-static, which has no symbols of its own."""
    names: list[str] = []
    exact = True  # no return address, before which is the call: at fault, or interrupted
    for frame in stack:
        match = _IN_STATIC.fullmatch(frame)
        offset = int(match[1], 16) if match else 0
        names.append(golden.function_at(offset - (not exact)) if match else frame)
        exact = bool(match) and golden.function_at(offset) == "__restore_rt"
    return names


def outline(stack: Sequence[str]) -> list[str]:
    """The frames by function, with one LIBRARY for those in succession that are not ours."""
    frames: list[str] = []
    others = 0
    for name in named(stack):
        others = 0 if name in _OURS else others + 1
        if others == MOST_IN_LIBRARY + 1:
            frames.append(f"more than {MOST_IN_LIBRARY} of the library")
        if not others or others == 1:
            frames.append(LIBRARY if others else name)
    return frames


Described = tuple[tuple[str, ...], str]


def outlines(found: Traced, name: str) -> list[Described]:
    """The outline of each fault's stack on a range, by address, and what the stack lacks."""
    rows = found.within(found.report.ranges[name])
    known = {
        number: (tuple(outline(found.stacks[number])), found.stack_notes[number])
        for number in set(rows["stack"].tolist())
    }
    ordered = sorted(zip(rows["address"].tolist(), rows["stack"].tolist(), strict=True))
    return [known[number] for _, number in ordered]


def differences(found: Traced, name: str, wanted: Sequence[str], note: str = "") -> list[str]:
    """What is wrong with the stacks of a scenario; nothing where all are as wanted."""
    stacks = outlines(found, name)
    pages = found.report.ranges[name].pages
    first = pages * FIRST // (FIRST + SECOND)
    if len(stacks) < pages and found.inexact:
        return unlike(f"{name}, some of {pages}", stacks, wanted, note)
    wrong = [] if len(stacks) == pages else [f"{name}: {len(stacks)} faults of {pages}"]
    wrong += unlike(f"{name}, first round", stacks[:first], wanted, note)
    return wrong + unlike(f"{name}, second round", stacks[first:], wanted, note)


def unlike(
    title: str, stacks: Sequence[Described], wanted: Sequence[str], note: str = ""
) -> list[str]:
    """Those of these stacks that are not as wanted."""
    return [
        f"{title}, {count} of {len(stacks)}: {' < '.join(shortened(frames))} ({lacks})"
        for (frames, lacks), count in Counter(stacks).items()
        if (list(frames), lacks) != (list(wanted), note)
    ]


def shortened(frames: Sequence[str]) -> list[str]:
    """The frames, those in succession that are one function as `function x 9`."""
    runs: list[tuple[str, int]] = []
    for frame in frames:
        if runs and runs[-1][0] == frame:
            runs[-1] = (frame, runs[-1][1] + 1)
        else:
            runs.append((frame, 1))
    return [frame if count == 1 else f"{frame} x {count}" for frame, count in runs]


def false(stacks: Sequence[Described], wanted: Sequence[str]) -> list[str]:
    """Stacks that are not as wanted, nor the inner frames of that with a note that more are due."""
    return [
        f"{' < '.join(frames)} ({lacks})"
        for frames, lacks in dict.fromkeys(stacks)
        if list(frames) != list(wanted)
        and not (lacks and frames and list(frames) == list(wanted)[: len(frames)])
    ]


def test_every_stack_is_whole(found: Traced) -> None:
    wanted = STACKS | (LINKED if "linked" in found.report.ranges else {})
    wrong = [line for name in wanted for line in differences(found, name, wanted[name])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ALIKE)
def test_callers_with_frames_alike_are_distinguished(found: Traced, name: str) -> None:
    """Each second page is the other's."""
    stacks = outlines(found, name)
    assert len(stacks) == 2 * (FIRST + SECOND)
    wanted = ALIKE[name]
    wrong = [line for i in range(2) for line in unlike(f"of {i}", stacks[i::2], wanted[i])]
    assert not wrong, "\n".join(wrong)


def test_a_signal_handler_on_an_alternate_stack(found: Traced) -> None:
    """A copy is of one stack: without rules a walk ends where it goes over to the other.

    It takes two copies, one after another, to learn them: on a busy machine more than a round.
    """
    stacks = outlines(found, "signal-stack")
    assert len(stacks) == FIRST + SECOND
    wrong = false(stacks, ALTERNATE)
    assert not wrong, "\n".join(wrong)


def test_a_stack_that_is_too_deep_is_truncated(found: Traced) -> None:
    """… at the kernel's limit, of which all are the function that calls itself."""
    stacks = outlines(found, "two-hundred")
    assert len(stacks) == FIRST + SECOND
    wrong = unlike("too deep", stacks, ["hundred_descends"] * STACK_USER, TRUNCATED)
    assert not wrong, "\n".join(wrong)


def test_a_coroutine_s_stack_ends_where_it_begins(found: Traced) -> None:
    stacks = outlines(found, "coroutine")
    assert len(stacks) == FIRST + SECOND
    assert {frames[:2] for frames, _ in stacks} == {tuple(COROUTINE[:2])}
    wrong = false(stacks, COROUTINE)
    assert not wrong, "\n".join(wrong)


def test_what_the_kernel_did_is_part_of_the_stack(found: Traced) -> None:
    for number in found.within(found.report.ranges["read"])["stack"].tolist():
        stack = found.stacks[number]
        assert any(name.startswith(("ksys_read", "vfs_read")) for name in stack), stack
        assert "handle_mm_fault" not in stack


def test_both_rounds_have_the_same_frames(found: Traced) -> None:
    """… also those of the library, which may have no names."""
    wrong = []
    for name in STACKS.keys() - {"sort"}:  # whose recursion has several depths
        numbers = set(found.within(found.report.ranges[name])["stack"].tolist())
        stacks = {tuple(named(found.stacks[number])) for number in numbers}
        if len(stacks) != 1:
            wrong += [f"{name}: {' < '.join(shortened(stack))}" for stack in stacks]
    assert not wrong, "\n".join(wrong)


def test_another_library_at_the_same_addresses_has_its_own_rules(found: Traced) -> None:
    """Its faults come before anybody can know of it: a stack is right, or says that it is not."""
    if "opened" not in found.report.ranges:
        return  # golden-static has no libraries
    assert found.report.missing != "reuse"
    stacks = outlines(found, "opened")
    assert len(stacks) == 2 * (FIRST + SECOND)
    parts = [stacks[:3], stacks[3:6], stacks[6:11], stacks[11:]]
    wrong = unlike("first library, at first", parts[0], OPENED[0])
    for i, part in enumerate(parts):
        wrong += [f"library {i % 2 + 1}, part {i}: {each}" for each in false(part, OPENED[i % 2])]
    assert not wrong, "\n".join(wrong)
