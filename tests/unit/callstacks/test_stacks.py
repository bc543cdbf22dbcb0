"""Call stacks put together, told apart, and cut where frame pointers do not reach."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.faults_data import LAYOUT, faults
from tracer.callstacks import stacks as stacks_module
from tracer.callstacks.locations import Location
from tracer.callstacks.stacks import Stacks
from tracer.common.fields import Columns
from tracer.model.rows import Names
from tracer.procfs.maps import Mapping
from tracer.spaces.spaces import Spaces
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.wire.records import RecordType

TEXT, LIBC = 0x400000, 0x7F0000000000  # where ./program and its library are mapped
MM, OTHER = 0xFFFF888000001000, 0xFFFF888000002000
KERNEL = 0xFFFFFFFF81000000
FRAMED = Rule(Cfa.RBP, 16, -16)
KERNEL_NAMES = {
    0: "bpf_prog_1", 1: "handle_mm_fault", 2: "exc_page_fault", 3: "asm_exc_page_fault",
    4: "copy", 5: "vfs_read", 6: "do_syscall_64", 7: "",
}  # fmt: skip


def mappings(shift: int = 0) -> list[Mapping]:
    return [
        Mapping(TEXT + shift, TEXT + shift + 0x10000, "r-xp", 0x1000, 8, 1, "/bin/program"),
        Mapping(LIBC + shift, LIBC + shift + 0x10000, "r-xp", 0x2000, 8, 2, "/lib/libc.so"),
        Mapping(0x500000000000, 0x500000010000, "rwxp", 0, 0, 0, ""),
        Mapping(0x600000000000, 0x600000010000, "r-xs", 0x3000, 1, 7, "/memfd:jit (deleted)"),
    ]


class World:
    """Two processes that run one program, the second at other addresses."""

    def __init__(self, rules: dict[int, Rule] | None = None) -> None:
        self.names = Names(fold=True)
        self.spaces = Spaces(self.names)
        self.spaces.attach(1, 10, MM, mappings())
        self.spaces.attach(1, 20, OTHER, mappings(0x100000))
        self.rules = rules or {}
        self.answering = True  # of rules
        self.stacks = Stacks(self.spaces, self.names.regions, self.kernel_names, self)

    def ask_rules(self, locations: Iterable[Location]) -> None:
        """Asked in time."""

    def ask_codes(self, files: dict[int, list[int]], wait_s: float) -> None:
        """Nothing learns rules here."""

    def code(self, location: Location) -> CodeRule | None:
        return self.code_at(0, location.looked_up)

    def code_at(self, file: int, offset: int) -> CodeRule | None:
        rule = self.rules.get(offset) if self.answering else None
        return None if rule is None else CodeRule(rule, after_call=True, bare_page=False)

    def has_rule(self, location: Location) -> bool:
        return self.answering

    def ask_runtime(self, file: int, offset: int) -> None:
        """Nothing is a Python here."""

    def has_runtime(self, file: int, offset: int) -> bool:
        return False

    def runtime(self, file: int, offset: int) -> None:
        return None

    def kernel_names(self, addresses: Sequence[int]) -> list[str]:
        return [KERNEL_NAMES[address - KERNEL] for address in addresses]

    def send(
        self,
        number: int,
        user: Sequence[int],
        kernel: Sequence[int] = (),
        *,
        mm: int = MM,
        caller: int = 0,
        without: int | None = None,
    ) -> None:
        self.stacks.learn(records(number, user, kernel, mm, caller, without))

    def ask(self, *numbers: int, mm: int = MM, current: int = 0) -> list[int]:
        made = faults(len(numbers), stack=numbers, mm=mm, current_mm=current or mm,
                      tgid=10 if mm == MM else 20, time_ns=100)  # fmt: skip
        columns = Columns.of(made)
        spaces, _ = self.spaces.resolve(columns)
        found: list[int] = self.stacks.numbers(columns, spaces).tolist()
        return found

    def locations(self, number: int) -> list[Location]:
        return [self.stacks.locations[at] for at in self.stacks.stacks[number].frames]

    def offsets(self, number: int) -> list[int]:
        return [location.offset for location in self.locations(number)]


def records(
    number: int,
    user: Sequence[int],
    kernel: Sequence[int] = (),
    mm: int = MM,
    caller: int = 0,
    without: int | None = None,
) -> np.ndarray:
    """As bpf/stack.bpf.h sends them: the kernel's frames, then the program's, each by parts."""
    room = LAYOUT.stack["ips"].shape[0]
    parts = []
    for before, ips in ((0, kernel), (len(kernel), user)):
        for first in range(0, len(ips), room):
            record = np.zeros(1, LAYOUT.stack)
            record["type"] = RecordType.STACK
            record["kernel"], record["user"] = len(kernel), len(user)
            record["first"], record["stack"], record["mm"] = before + first, number, mm
            record["tgid"], record["caller"] = 10 if mm == MM else 20, caller
            some = list(ips[first : first + room])
            record["ips"][0, : len(some)] = some
            parts.append(record)
    if without is not None:
        del parts[without]
    return np.concatenate(parts) if parts else np.zeros(0, LAYOUT.stack)


def test_a_frame_is_an_offset_in_a_file() -> None:
    world = World()
    world.send(7, [TEXT + 0x10, LIBC + 0x20])
    assert world.ask(7, 7, 0) == [1, 1, 0]
    assert world.locations(1) == [
        Location(False, "/bin/program", 0x1010),
        Location(False, "/lib/libc.so", 0x2020, returns=True),
    ]
    assert world.stacks.stacks[1].addresses.tolist() == [TEXT + 0x10, LIBC + 0x20]


def test_processes_that_run_the_same_code_share_stacks() -> None:
    world = World()
    world.send(7, [TEXT + 0x10])
    world.send(9, [TEXT + 0x100010], mm=OTHER)
    assert world.ask(7) == [1]
    assert world.ask(9, mm=OTHER) == [1]


def test_code_made_at_run_time_is_its_process_s_own() -> None:
    world = World()
    world.send(7, [0x500000000010])
    world.send(9, [0x500000000010], mm=OTHER)
    assert world.ask(7) == [1]
    assert world.ask(9, mm=OTHER) == [2]
    assert world.locations(1) == [
        Location(False, "[anon]", 0x500000000010, tgid=10, address=0x500000000010)
    ]


def test_code_in_a_memfd_has_its_offset_there_and_its_address() -> None:
    """A perf map names code by its address."""
    world = World()
    world.send(7, [0x600000000010])
    world.send(8, [0x600000000010])
    assert world.ask(7, 8) == [1, 1]
    name = "/memfd:jit (deleted)"
    assert world.locations(1) == [Location(False, name, 0x3010, tgid=10, address=0x600000000010)]


def test_a_stack_with_another_version_of_its_code() -> None:
    """It is one more stack, and follows what the first is revised to."""
    world = World()
    world.send(7, [TEXT + 0x10, 0x600000000010])
    (number,) = world.ask(7)
    code = 10, 0x60000000000F  # before the return address
    assert world.stacks.made(number) == (code,)
    other = world.stacks.variant(number, {code: 2})
    assert world.stacks.variant(number, {code: 2}) == other != number
    first, second = world.locations(number), world.locations(other)
    assert second == [first[0], replace(first[1], version=2)]
    shorter = replace(
        world.stacks.stacks[number], frames=array("I", [1]), addresses=array("Q", [9])
    )
    world.stacks._replace(number, shorter)
    assert world.locations(other) == second[1:]


def test_versions_beyond_the_limit_have_no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.send(7, [0x600000000010])
    (number,) = world.ask(7)
    monkeypatch.setattr(stacks_module, "MOST_STACKS", 1)
    assert world.stacks.variant(number, {(10, 0x600000000010): 1}) == 0
    assert world.stacks.refused == 1


def test_many_frames_come_in_parts() -> None:
    world = World()
    user = [TEXT + 0x10 * n for n in range(1, 101)]
    kernel = [KERNEL + 4, KERNEL + 5, KERNEL + 6]
    world.send(7, user, kernel)
    assert world.ask(7) == [1]
    assert len(world.locations(1)) == 103
    assert [location.kernel for location in world.locations(1)] == [True] * 3 + [False] * 100
    # The system call's return address is no fault's.
    assert world.locations(1)[3].returns


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_stack_of_which_a_part_was_lost_is_not_known(missing: int) -> None:
    world = World()
    user = [TEXT + 0x10 * n for n in range(1, 60)]
    world.send(7, user, without=missing)
    assert world.ask(7) == [0]
    world.send(7, user)  # the kernel sends it again
    assert world.ask(7) == [1]
    assert len(world.locations(1)) == 59


def test_a_number_nobody_sent_is_not_known() -> None:
    assert World().ask(7) == [0]


@pytest.mark.parametrize(
    ("frames", "left"),
    [
        ([0, 1, 2, 3, 4, 5, 6], [4, 5, 6]),  # an exception inside a system call
        ([0, 1, 5, 6], [5, 6]),  # get_user_pages
        ([0, 7, 5, 6], [5, 6]),  # our own code, which may have no name
        ([4, 5, 6], [4, 5, 6]),  # perf: from the instruction on
        ([0, 1], []),
    ],
)
def test_of_the_kernel_only_what_led_to_the_fault(frames: list[int], left: list[int]) -> None:
    world = World()
    world.send(7, [TEXT + 0x10], [KERNEL + at for at in frames])
    assert world.ask(7) == [1]
    assert [location.offset for location in world.locations(1) if location.kernel] == [
        KERNEL + at for at in left
    ]


def test_another_s_memory_has_the_stack_of_its_own_process() -> None:
    """A target writes into another target: the stack is the writer's."""
    world = World()
    world.send(7, [TEXT + 0x10])
    assert world.ask(7, mm=OTHER, current=MM) == [1]
    assert world.locations(1)[0].name == "/bin/program"


# -- frame pointers ------------------------------------------------------------------------

LEAF, CALLER, MAIN = TEXT + 0x10, TEXT + 0x200, TEXT + 0x300
AT = {LEAF: 0x1010, CALLER: 0x11FF, MAIN: 0x12FF}  # where their rules are looked up


def test_a_stack_is_walked_again_when_its_rules_are_known() -> None:
    """It keeps its number, and its frames are then as if the rules had been known at once."""
    rules = {LEAF: Rule(Cfa.RSP, 8), CALLER: FRAMED, MAIN: FRAMED}
    world = World({AT[address]: rule for address, rule in rules.items()})
    world.answering = False
    world.send(1, [LEAF, MAIN], caller=CALLER)
    world.send(2, [LEAF, MAIN], caller=CALLER)
    assert world.ask(1, 2) == [1, 1]
    assert [location.offset for location in world.locations(1)] == [0x1010, 0x1300]
    world.stacks.revise()
    assert world.stacks.revised == 0
    world.answering = True
    world.stacks.revise()
    assert [location.offset for location in world.locations(1)] == [0x1010, 0x1200, 0x1300]
    assert world.stacks.revised == 1
    world.stacks.revise()
    assert world.ask(1, 2) == [1, 1]
    assert world.stacks.revised == 1


def test_so_many_wait_for_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others stay as they were walked, and are counted."""
    monkeypatch.setattr(stacks_module, "_MOST_UNSURE", 2)
    world = World({AT[LEAF]: Rule(Cfa.RSP, 48, -16), AT[MAIN]: FRAMED})
    world.answering = False
    for number in range(1, 5):
        world.send(number, [LEAF, MAIN + 16 * number])
    assert world.ask(1, 2, 3, 4) == [1, 2, 3, 4]
    assert (world.stacks.unsure, world.stacks.unrevised) == (2, 2)
    world.answering = True
    world.stacks.revise(1)
    assert (world.stacks.unsure, world.stacks.revised) == (1, 1)
    world.stacks.revise()
    assert [len(world.locations(number)) for number in range(1, 5)] == [1, 1, 2, 2]


def walked(rules: dict[int, Rule], caller: int = CALLER) -> tuple[list[int], int]:
    world = World({AT[address]: rule for address, rule in rules.items()})
    world.send(7, [LEAF, MAIN], caller=caller)
    assert world.ask(7) == [1]
    stack = world.stacks.stacks[1]
    return list(stack.addresses), stack.gap


def test_a_function_that_pushed_nothing_was_called_from_where_its_stack_begins() -> None:
    rules = {LEAF: Rule(Cfa.RSP, 8), CALLER: FRAMED, MAIN: FRAMED}
    assert walked(rules) == ([LEAF, CALLER, MAIN], -1)


def test_a_value_that_only_looks_like_a_caller_is_none() -> None:
    assert walked({LEAF: FRAMED, MAIN: FRAMED}) == ([LEAF, MAIN], -1)
    assert walked({MAIN: FRAMED}) == ([LEAF, MAIN], -1)  # nothing is known of it


def test_without_a_frame_pointer_a_caller_may_be_missing() -> None:
    rules = {LEAF: Rule(Cfa.RSP, 48), MAIN: FRAMED}
    assert walked(rules) == ([LEAF, MAIN], 0)
    rules = {LEAF: Rule(Cfa.RSP, 8), MAIN: FRAMED}
    assert walked(rules, caller=0) == ([LEAF, MAIN], 0)
    rules = {LEAF: Rule(Cfa.RSP, 8), CALLER: Rule(Cfa.RSP, 48), MAIN: FRAMED}
    assert walked(rules) == ([LEAF, CALLER, MAIN], 1)


def test_what_uses_the_frame_pointer_for_something_else_ends_the_stack() -> None:
    assert walked({LEAF: Rule(Cfa.RSP, 48, -16), MAIN: FRAMED}) == ([LEAF], 0)
    rules = {LEAF: Rule(Cfa.RSP, 8), CALLER: Rule(Cfa.RSP, 48, -16), MAIN: FRAMED}
    assert walked(rules) == ([LEAF, CALLER], 1)


def test_where_nothing_called_there_is_the_end() -> None:
    world = World({AT[LEAF]: FRAMED, AT[MAIN]: Rule(Cfa.OUTERMOST)})
    world.send(7, [LEAF, MAIN, 0, 1])
    assert world.ask(7) == [1]
    stack = world.stacks.stacks[1]
    assert (len(stack.frames), stack.gap, stack.ended) == (2, -1, True)


def test_a_chain_that_ends_in_nothing_is_no_frame() -> None:
    world = World()
    world.send(7, [LEAF, MAIN, 0])
    world.ask(7)
    assert world.offsets(1) == [0x1010, 0x1300]


def test_as_many_frames_as_the_kernel_records() -> None:
    world = World()
    world.send(7, [TEXT + 0x10 + n for n in range(127)])
    world.ask(7)
    assert world.stacks.stacks[1].truncated


# -- in bounds -----------------------------------------------------------------------------


def test_no_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks_module, "MOST_STACKS", 3)
    world = World()
    for number in range(1, 6):
        world.send(number, [TEXT + 0x10 * number])
        world.ask(number)
    assert len(world.stacks.stacks) == 4
    assert world.stacks.refused == 2
    assert len(world.stacks.locations) == 3  # nor the locations of those refused
    assert world.ask(1, 5) == [1, 0]


def test_numbers_in_use_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks_module, "_MOST_KNOWN", 4)
    world = World()
    for number in range(1, 40):
        world.send(number, [TEXT + 0x10 * number])
        assert world.ask(number, 1 if number > 1 else number)[1] == 1
    assert world.ask(2) == [0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30), st.integers(0, 20)), max_size=20))
def test_any_order_of_parts(pieces: list[tuple[int, int, int]]) -> None:
    """Whatever comes, a stack that is known has its frames."""
    world = World()
    for number, user, drop in pieces:
        sent = records(number, [TEXT + 0x10 * (number + n) for n in range(user)])
        world.stacks.learn(np.delete(sent, drop) if drop < len(sent) else sent)
        for found in world.ask(number):
            assert not found or world.stacks.stacks[found].frames
