"""Call stacks of faults whose callers are known, on every probe."""

import numpy as np

from tests.live.tracing import Traced, check_all, trace
from tracer.probes.choose import Attached
from tracer.session.plan import Plan

N = 37
OUTER = ["stack_middle", "stack_outer", "do_stacks"]


def traced(attached: Attached, *arguments: str | int) -> Traced:
    return trace(attached, *arguments, plan=Plan(snapshot_interval_ms=600_000, stacks=True))


def stacks_of(found: Traced, name: str) -> list[list[str]]:
    """The stack of each fault on a range."""
    return [found.stacks[number] for number in found.within(found.report.ranges[name])["stack"]]


def test_who_called(with_stacks: Attached) -> None:
    """Every fault has its stack, and a fault more or less is no matter of stacks."""
    found = traced(with_stacks, "stacks", N)
    check_all(found, "written", "set", "read")
    assert (found.rows["stack"] != 0).all()
    written = stacks_of(found, "written")
    assert len(written) == N
    assert {tuple(stack[:4]) for stack in written} == {("stack_writes", *OUTER)}


def test_a_function_without_a_frame_keeps_its_caller(with_stacks: Attached) -> None:
    found = traced(with_stacks, "stacks", N)
    callers = ["stack_sets", *OUTER]
    for stack in stacks_of(found, "set"):
        assert "memset" in stack[0], stack
        assert stack[1 : 1 + len(callers)] == callers, stack


def test_a_fault_in_a_system_call_has_the_kernel_s_frames(with_stacks: Attached) -> None:
    found = traced(with_stacks, "stacks", N)
    stacks = stacks_of(found, "read")
    assert len(stacks) == N
    for stack in stacks:
        assert "handle_mm_fault" not in stack
        assert "asm_exc_page_fault" not in stack
        assert any(name.startswith(("ksys_read", "vfs_read")) for name in stack), stack
        user = stack[stack.index("syscall") :]
        callers = ["stack_reads", *OUTER]
        assert user[1 : 1 + len(callers)] == callers, stack


def test_processes_that_run_the_same_code_have_the_same_stacks(with_stacks: Attached) -> None:
    """… also those that ended before anybody asked for names."""
    found = traced(with_stacks, "stacks-of-children", N)
    mine = found.within(found.report.ranges["written"])
    pids = np.unique(mine["pid"]).tolist()
    assert len(pids) == 2
    assert len(mine) == 2 * N
    assert len(np.unique(mine["stack"])) == 1
    assert found.stacks[int(mine["stack"][0])][:3] == ["stack_writes", *OUTER[:2]]
    assert not found.result.books.lost


def test_without_stacks_there_are_none(attached: Attached) -> None:
    found = trace(attached, "stacks", N)
    check_all(found, "written", "set", "read")
    assert not found.rows["stack"].any()
    assert not found.stacks
