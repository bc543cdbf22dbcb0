"""Walks by rules: the kernel's, checked, and what copies of stacks add to them."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from tests.unit.copies_data import copied
from tests.unit.faults_data import LAYOUT, faults
from tests.unit.learning_data import (
    JIT,
    LIB,
    RSP,
    TGID,
    Learning,
    mappings,
)
from tests.unit.rules_data import CODE, program
from tracer.callstacks import learning
from tracer.callstacks import stacks as stacks_module
from tracer.callstacks.file_rules import RETURN
from tracer.callstacks.kernel_rules import value_of
from tracer.callstacks.learning import Learner
from tracer.callstacks.stacks import Stack, Stacks
from tracer.callstacks.unwinding import NO_CALL, End
from tracer.common.fields import Columns
from tracer.model.rows import Names
from tracer.spaces.spaces import Spaces
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.wire.records import RecordType
from tracer.wire.shared import STACK_USER

MM = 0xFFFF_8880_0000_1000
KERNEL = 0xFFFF_FFFF_8100_0000
LEAF, CALLER, MAIN, DATA = LIB + 0x100, LIB + 0x200, CODE + 0x300, CODE + 0x2_0010
OUTERMOST = CodeRule(Rule(Cfa.OUTERMOST), after_call=False, bare_page=False)
MINE = program(1)


class World(Learning):
    """A process whose stacks the kernel walks by rules."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Names()
        self.spaces = Spaces(self.names)
        self.spaces.attach(1, TGID, MM, mappings())
        self.stacks = Stacks(
            self.spaces, self.names.regions, lambda ips: ["vfs_read"] * len(ips), self.rules
        )
        made = self.stacks.walk_by_rules(cast(Any, self.ring), self.installed, self.mappings_of)
        assert made is not None
        self.learner: Learner = made
        self.rules.codes[1, 0x12FF] = OUTERMOST  # of MAIN

    def install(self, address: int, rule: Rule, *, exact: bool = False) -> None:
        key = MINE.key(address, exact=exact)
        self.installed.add(MINE.shared, [(key, value_of(rule))])

    def know(self, *addresses: int, exact: bool = False) -> None:
        """What the rules are is known of these, but for `codes` they are as usual."""
        for mapping in mappings():
            for address in addresses:
                if mapping.start <= address < mapping.end:
                    offset = address - mapping.start + mapping.offset - (not exact)
                    self.rules.ask_codes({mapping.file: [offset]}, 0)

    def usual(self, *ips: int) -> None:
        """The kernel has the usual rules for such a walk, but for those it was given already."""
        for at, ip in enumerate(ips):
            if self.installed.used(MINE, ip, exact=not at) is None:
                self.install(ip, RSP, exact=not at)

    def stack(self, number: int, ips: Sequence[int], end: End, kernel: Sequence[int] = ()) -> None:
        room = LAYOUT.stack["ips"].shape[0]
        for before, some in ((0, kernel), (len(kernel), ips)):
            for first in range(0, len(some), room):
                record = np.zeros(1, LAYOUT.stack)
                record["type"], record["stack"], record["mm"] = RecordType.STACK, number, MM
                record["kernel"], record["user"], record["tgid"] = len(kernel), len(ips), TGID
                record["first"], record["caller"], record["program"] = before + first, end, 1
                part = some[first : first + room]
                record["ips"][0, : len(part)] = part
                self.stacks.learn(record)

    def ask(self, *numbers: int) -> list[int]:
        columns = Columns.of(
            faults(len(numbers), stack=numbers, mm=MM, current_mm=MM, tgid=TGID, time_ns=100)
        )
        spaces, _ = self.spaces.resolve(columns)
        found: list[int] = self.stacks.numbers(columns, spaces).tolist()
        return found

    def walk(
        self, ips: Sequence[int], end: End, kernel: Sequence[int] = (), number: int = 7
    ) -> tuple[list[int], End]:
        """The frames' addresses, and where the walk ended."""
        self.stack(number, ips, end, kernel)
        (found,) = self.ask(number)
        return self.found(found)

    def found(self, number: int) -> tuple[list[int], End]:
        stack = self.of(number)
        return list(stack.addresses), stack.end

    def of(self, number: int) -> Stack:
        return self.stacks.stacks[number]

    def returns(self, number: int = 1) -> list[bool]:
        return [self.stacks.locations[at].returns for at in self.of(number).frames]


@pytest.fixture
def world() -> World:
    return World()


# -- the kernel's walk, checked


def test_a_walk_by_the_rules_that_hold(world: World) -> None:
    world.know(LEAF, exact=True)
    world.know(CALLER, MAIN)
    world.install(LEAF, RSP, exact=True)
    world.install(CALLER, RSP)
    world.install(MAIN, OUTERMOST.rule)
    assert world.walk([LEAF, CALLER, MAIN], End.OUTERMOST) == ([LEAF, CALLER, MAIN], End.OUTERMOST)
    stack = world.of(1)
    assert (stack.ended, stack.truncated, stack.gap) == (True, False, -1)
    assert world.returns() == [False, True, True]
    assert world.kernel.renewed == []


def test_a_wrong_rule_cuts_the_walk(world: World) -> None:
    """Another file is mapped there now: the process gets a program of its own."""
    world.know(LEAF, exact=True)
    world.know(CALLER, MAIN)
    world.install(LEAF, RSP, exact=True)
    world.install(CALLER, Rule(Cfa.RSP, 16))
    world.install(MAIN, OUTERMOST.rule)
    assert world.walk([LEAF, CALLER, MAIN], End.OUTERMOST) == ([LEAF, CALLER], End.REPLACED)
    assert world.kernel.renewed == [(TGID, 1, False)]
    assert not world.of(1).ended


def test_so_does_one_of_the_program_s_own_code(world: World) -> None:
    """It is another program altogether."""
    world.usual(LEAF, MAIN)
    world.know(LEAF, exact=True)
    world.know(MAIN)
    assert world.walk([LEAF, MAIN, CALLER], End.LIMIT) == ([LEAF, MAIN], End.REPLACED)
    assert world.kernel.renewed == [(TGID, 1, True)]


def test_a_wrong_rule_cuts_the_walk_when_its_code_s_is_known(world: World) -> None:
    world.rules.answering = False
    world.usual(LEAF)
    world.install(CALLER, Rule(Cfa.RSP, 16))
    world.install(MAIN, OUTERMOST.rule)
    assert world.walk([LEAF, CALLER, MAIN], End.OUTERMOST) == ([LEAF, CALLER, MAIN], End.OUTERMOST)
    world.stacks.revise()
    assert (world.stacks.unsure, world.of(1).ended, world.kernel.renewed) == (1, True, [])
    world.rules.answer()
    world.stacks.revise()
    assert world.found(1) == ([LEAF, CALLER], End.REPLACED)
    assert world.kernel.renewed == [(TGID, 1, False)]
    assert (world.stacks.unsure, world.stacks.revised, world.of(1).ended) == (0, 1, False)


def test_copies_are_read_while_stacks_are_walked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be thousands to walk, and the kernel waits for rules."""
    monkeypatch.setattr(learning, "_TURN_NS", 0)
    world.rules.answering = False
    world.usual(LEAF, CALLER)
    world.install(MAIN, OUTERMOST.rule)
    world.walk([LEAF, CALLER, MAIN], End.OUTERMOST)
    reads = world.ring.reads
    world.stacks.revise()
    assert world.ring.reads > reads


def test_a_copy_behind_a_wrong_rule_is_of_no_use(world: World) -> None:
    world.rules.answering = False
    world.install(LEAF, Rule(Cfa.RSP, 16), exact=True)
    world.send(copied(7, CALLER, [MAIN]))
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER], End.NO_RULE)
    world.rules.answer()
    world.stacks.revise()
    assert world.found(1) == ([LEAF], End.REPLACED)
    assert world.stacks.unsure == 0


def test_rules_of_earlier_runs_are_checked_as_others_are(world: World) -> None:
    """The file itself is asked, and if it says otherwise, what was stored of it is not used."""
    stored = {(CALLER - LIB, RETURN): value_of(Rule(Cfa.RSP, 16)), (0x900, RETURN): value_of(RSP)}
    world.learner.files.load = lambda file: dict(stored) if file == 2 else {}
    world.send(copied(9, LIB + 0x800))
    world.install(LEAF, RSP, exact=True)
    world.install(MAIN, OUTERMOST.rule)
    world.rules.asked.clear()
    assert world.walk([LEAF, CALLER, MAIN], End.OUTERMOST) == ([LEAF, CALLER], End.REPLACED)
    assert (2, CALLER - LIB - 1) in world.rules.asked
    ((_, table),) = ((file, each) for file, each in world.learner.files.tables() if file == 2)
    assert (table.wrong, table.stored) == (True, {})
    assert world.kernel.renewed == [(TGID, 1, False)]


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_rule_before_one_that_is_not_known(world: World, known: bool) -> None:
    """The first one that is wrong counts, whenever that is found out."""
    world.install(LEAF, Rule(Cfa.RSP, 16), exact=True)
    world.install(CALLER, Rule(Cfa.RSP, 16))
    world.install(MAIN, OUTERMOST.rule)
    world.know(CALLER)
    world.rules.answering = known
    frames, end = world.walk([LEAF, CALLER, MAIN], End.OUTERMOST)
    if not known:
        assert (frames, end, world.stacks.unsure) == ([LEAF, CALLER], End.REPLACED, 1)
        world.rules.answer()
        world.stacks.revise()
    assert world.stacks.unsure == 0
    assert world.found(1) == ([LEAF], End.REPLACED)
    assert set(world.kernel.renewed) == {(TGID, 1, False)}


def test_a_rule_that_was_removed_meanwhile_cuts_the_walk(world: World) -> None:
    """Nobody knows what it said. Those before it are checked all the same."""
    world.rules.answering = False
    world.install(LEAF, Rule(Cfa.RSP, 99), exact=True)
    assert world.walk([LEAF, CALLER, MAIN], End.UNREADABLE) == ([LEAF, CALLER], End.REPLACED)
    assert (world.stacks.unsure, world.kernel.renewed) == (1, [])
    world.rules.answer()
    world.stacks.revise()
    assert world.found(1) == ([LEAF], End.REPLACED)
    assert world.kernel.renewed == [(TGID, 1, False)]


@pytest.mark.parametrize("known", [True, False])
def test_the_kernel_goes_on_by_a_page_s_rule_where_nothing_is_called(
    world: World, known: bool
) -> None:
    """That was no return address, nor is what follows."""
    world.rules.answering = known
    world.rules.codes[2, 0x1FF] = CodeRule(Rule(Cfa.FRAME), after_call=False, bare_page=True)
    world.usual(LEAF)
    world.installed.add(MINE.shared, [(MINE.page_key(CALLER), value_of(Rule(Cfa.FRAME)))])
    world.install(MAIN, OUTERMOST.rule)
    frames, end = world.walk([LEAF, CALLER, MAIN], End.OUTERMOST)
    if not known:
        assert (frames, end) == ([LEAF, CALLER, MAIN], End.OUTERMOST)
        world.rules.answer()
        world.stacks.revise()
    assert world.found(1) == ([LEAF], End.NO_CALLER)
    assert (world.stacks.unsure, world.kernel.renewed) == (0, [])
    world.install(CALLER, NO_CALL)  # as it is then; walks of before come all the same
    world.stack(8, [LEAF, CALLER, MAIN], End.OUTERMOST)
    assert world.ask(8) == [1]


@pytest.mark.parametrize("known", [True, False])
def test_the_last_address_may_be_found_to_be_none_later(world: World, known: bool) -> None:
    world.rules.answering = known
    world.rules.codes[2, 0x1FF] = CodeRule(RSP, after_call=False, bare_page=False)
    world.usual(LEAF)
    world.install(CALLER, NO_CALL)
    found = world.walk([LEAF, CALLER], End.NO_CALLER)
    if not known:
        assert found == ([LEAF, CALLER], End.NO_CALLER)
        world.rules.answer()
        world.stacks.revise()
    assert world.found(1) == ([LEAF], End.NO_CALLER)
    assert world.stacks.unsure == 0


def test_the_rule_of_the_last_frame_is_checked_unless_it_had_none(world: World) -> None:
    world.know(MAIN)
    world.usual(LEAF, MAIN)
    assert world.walk([LEAF, MAIN], End.OUTERMOST)[1] == End.REPLACED
    assert world.walk([LEAF, MAIN], End.LIMIT, number=8)[1] == End.LIMIT


def test_an_address_that_is_no_return_address_is_no_frame(world: World) -> None:
    """Before it nothing is called, or it is in no code."""
    world.rules.codes[2, 0x1FF] = CodeRule(RSP, after_call=False, bare_page=False)
    world.know(CALLER)
    world.usual(LEAF)
    world.usual(DATA)
    world.install(CALLER, NO_CALL)
    assert world.walk([LEAF, CALLER], End.NO_CALLER) == ([LEAF], End.NO_CALLER)
    assert world.walk([LEAF, DATA], End.NO_CALLER, number=8) == ([LEAF], End.NO_CALLER)
    # As the only frame it is where the fault was.
    assert world.walk([DATA], End.NO_CALLER, number=9) == ([DATA], End.NO_CALLER)


def test_what_a_signal_interrupted_is_no_return_address(world: World) -> None:
    signal = CodeRule(Rule(Cfa.SIGNAL), after_call=False, bare_page=False)
    world.rules.codes[2, 0x1FF] = signal
    world.know(CALLER)
    world.install(CALLER, signal.rule)
    world.usual(LEAF)
    world.rules.codes[1, 0x1300] = OUTERMOST
    world.install(MAIN, OUTERMOST.rule, exact=True)
    assert world.walk([LEAF, CALLER, MAIN], End.OUTERMOST)[0] == [LEAF, CALLER, MAIN]
    assert world.returns() == [False, True, False]


def test_a_fault_in_a_system_call_has_its_call_before_it(world: World) -> None:
    world.usual(LEAF, CALLER)
    assert world.walk([LEAF, CALLER], End.UNREADABLE, [KERNEL])[0] == [KERNEL, LEAF, CALLER]
    assert world.returns() == [True, True, True]


def test_a_fault_in_exec_has_the_kernel_s_frames_only(world: World) -> None:
    """The program that called it is gone, and what its registers say."""
    assert world.walk([DATA, CALLER], End.UNREADABLE, [KERNEL, KERNEL + 8]) == (
        [KERNEL, KERNEL + 8],
        End.NOT_WALKED,
    )


# -- copies


def test_a_copy_completes_a_walk(world: World) -> None:
    world.install(LEAF, RSP, exact=True)
    world.send(copied(7, CALLER, [MAIN], tgid=TGID))
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER, MAIN], End.OUTERMOST)
    assert world.of(1).ended
    assert MINE.key(MAIN, exact=False) in world.kernel.rules
    assert world.learner._bytes == 0
    assert world.stacks.unsure == 0


def test_a_copy_that_leads_to_data(world: World) -> None:
    world.usual(LEAF, CALLER)
    world.send(copied(7, CALLER, [DATA]), copied(8, DATA, []))
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER], End.NO_CALLER)
    # Its first frame is the kernel's last: then that is none.
    assert world.walk([LEAF, CALLER, DATA], End.NO_RULE, number=8)[1] == End.NO_CALLER


def test_a_copy_that_never_came(world: World) -> None:
    world.usual(LEAF)
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER], End.NO_COPY)
    assert not world.of(1).ended
    assert world.stacks.unsure == 0


def test_a_copy_that_is_too_short(world: World) -> None:
    world.usual(LEAF)
    world.send(copied(7, CALLER, [LIB + 0x300]))
    found = world.walk([LEAF, CALLER], End.NO_RULE)
    assert found == ([LEAF, CALLER, LIB + 0x300], End.SHORT_COPY)


def test_compiled_code_on_a_copy_is_walked_by_frame_pointers(world: World) -> None:
    world.usual(LEAF)
    sp = 0x7FFC_0000_0000
    words = [JIT + 0x10, 0, 0, MAIN]
    world.send(copied(7, CALLER, words, sp=sp, fp=sp + 16))
    found = world.walk([LEAF, CALLER], End.NO_RULE)
    assert found == ([LEAF, CALLER, JIT + 0x10, MAIN], End.OUTERMOST)
    assert value_of(Rule(Cfa.FRAME)) == world.kernel.rules[MINE.own_page_key(JIT)]


def test_a_walk_that_lacks_a_rule_is_finished_when_it_is_known(world: World) -> None:
    world.usual(LEAF)
    world.rules.answering = False
    world.send(copied(7, CALLER, [MAIN]))
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER], End.NO_RULE)
    assert world.stacks.unsure == 1
    world.stacks.revise()
    assert (world.stacks.unsure, world.stacks.revised) == (1, 0)
    world.rules.answer()
    world.stacks.revise()
    assert world.found(1) == ([LEAF, CALLER, MAIN], End.OUTERMOST)
    assert (world.stacks.unsure, world.stacks.revised) == (0, 1)
    assert world.ask(7) == [1]


def test_so_far_as_it_goes(world: World) -> None:
    """A rule of a later frame is missing: the frames before it are there already."""
    world.usual(LEAF)
    world.know(CALLER)
    world.rules.answering = False
    world.send(copied(7, CALLER, [MAIN]))
    assert world.walk([LEAF, CALLER], End.NO_RULE) == ([LEAF, CALLER, MAIN], End.NO_RULE)
    world.rules.answer()
    world.stacks.revise()
    assert world.found(1)[1] == End.OUTERMOST


@pytest.mark.parametrize("known", [True, False])
def test_so_many_frames_on_a_copy_are_too_many(world: World, known: bool) -> None:
    world.usual(LEAF)
    world.rules.answering = known
    words = [LIB + 0x300 + 8 * at for at in range(STACK_USER + 9)]
    world.send(copied(7, CALLER, words))
    frames, end = world.walk([LEAF, CALLER], End.NO_RULE)
    if not known:
        assert (end, world.of(1).truncated) == (End.NO_RULE, False)
        world.rules.answer()
        world.stacks.revise()
        frames, end = world.found(1)
    assert (len(frames), end) == (STACK_USER, End.LIMIT)
    assert frames[:3] == [LEAF, CALLER, words[0]]
    assert world.of(1).truncated


def test_the_same_frames_with_another_end_are_another_stack(world: World) -> None:
    world.usual(LEAF, CALLER)
    for number, end in enumerate((End.UNREADABLE, End.NO_CALLER, End.UNREADABLE), 1):
        world.stack(number, [LEAF, CALLER], end)
    assert world.ask(1, 2, 3) == [1, 2, 1]
    assert [world.of(at).end for at in (1, 2)] == [End.UNREADABLE, End.NO_CALLER]


def test_copies_that_nobody_wants_are_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stack that is known, which the kernel sends again, and of one whose fault never came."""
    world.usual(LEAF, CALLER)
    assert world.walk([LEAF, CALLER], End.OUTERMOST)[0] == [LEAF, CALLER]
    world.send(copied(7, CALLER, [MAIN]))
    world.stack(7, [LEAF, CALLER], End.NO_RULE)
    assert world.ask(7) == [1]
    assert world.learner._bytes == 0
    monkeypatch.setattr(stacks_module, "_MOST_RAW", 1)
    world.send(copied(8, CALLER, [MAIN]), copied(9, CALLER, [MAIN]))
    for number in (8, 9):
        world.stack(number, [LEAF, CALLER], End.NO_RULE)
    assert world.learner.pop(8) is None
    assert world.ask(9) != [0]
    assert world.learner._bytes == 0


def test_without_rules_nothing_is_learned() -> None:
    stacks = Stacks(Spaces(Names()), [], lambda ips: [])
    assert stacks.walk_by_rules(cast(Any, None), cast(Any, None), lambda tgid: []) is None
