"""Python's frames from the kernel's records into stacks."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.unit.callstacks.test_walks import CALLER, LEAF, MAIN, World
from tests.unit.copies_data import copied
from tests.unit.learning_data import TGID, mappings
from tests.unit.pythons_data import MEMBERS_OF, V313, V315, code_record, python_records
from tests.unit.rules_data import CODE
from tracer.callstacks import stacks as stacks_module
from tracer.callstacks.locations import Location
from tracer.callstacks.records import PythonEnd
from tracer.callstacks.stacks import PYTHON
from tracer.callstacks.unwinding import End
from tracer.kernel.sideband import MmapEvent
from tracer.symbolizing.runtime import NOT_KNOWN, Runtime
from tracer.wire.shared import PYTHON_LIMIT, PYTHON_SEVERAL

WALK = (LEAF, CALLER, MAIN)
SP = 0x7FFC_0000_0000
TABLE = bytes([0x80 | 11 << 3]) + b"\0\1" + bytes([0x80 | 12 << 3]) + b"\0\1"  # lines 11 and 13
CODE_OF = code_record(1, "A.f", "/app/x.py", 10, TABLE)


class Pythons(World):
    """The process is a Python, whose function 1 is /app/x.py's A.f."""

    def __init__(self) -> None:
        super().__init__()
        self.usual(*WALK)
        self.know(LEAF, exact=True)
        self.know(*WALK)
        self.send(CODE_OF)

    def stack_with(
        self,
        number: int,
        frames: Sequence[tuple[int, int, bool]],
        loops: Sequence[tuple[int, int]] = (),
        end: int = PythonEnd.WHOLE,
        native: End = End.OUTERMOST,
        walk: Sequence[int] = WALK,
        kernel: Sequence[int] = (),
    ) -> None:
        self.stacks.learn(python_records(number, frames, loops, end))
        self.stack(number, walk, native, kernel)

    def functions(self, number: int) -> list[tuple[str, int, bool]]:
        """By name and line, and whether C code called them."""
        stack = self.of(number)
        each = [(self.stacks.locations[word >> 1], bool(word & 1)) for word in stack.python]
        return [(at.function or at.name, at.offset, entry) for at, entry in each]


@pytest.fixture
def world() -> Pythons:
    return Pythons()


def test_python_s_frames_are_a_stack_s_own(world: Pythons) -> None:
    world.stack_with(7, [(1, 0, False), (1, 1, True)], [(SP, 1)])
    assert world.ask(7) == [1]
    assert world.functions(1) == [("A.f", 11, False), ("A.f", 13, True)]
    stack = world.of(1)
    assert list(stack.addresses) == list(WALK)
    assert (stack.python_end, stack.loops) == (PythonEnd.WHOLE, (1,))
    assert world.stacks.locations[stack.python[0] >> 1] == Location(
        False, "/app/x.py", 11, function="A.f"
    )


def test_loops_are_among_the_kernel_s_frames_too(world: Pythons) -> None:
    """The numbers of these come first."""
    world.stack_with(7, [(1, 0, True)], [(SP, 1), (SP, -1)], kernel=[0xFFFF_FFFF_8100_0000] * 2)
    assert world.ask(7) == [1]
    assert world.of(1).loops == (3, -1)


def test_another_line_is_another_stack(world: Pythons) -> None:
    for number, position in ((7, 0), (8, 1), (9, 0)):
        world.stack_with(number, [(1, position, True)], [(SP, 1)])
    assert world.ask(7, 8, 9) == [1, 2, 1]
    world.stack_with(10, [(1, 0, False)], [(SP, 1)])
    world.stack_with(11, [(1, 0, True)], [(SP, 1)], PYTHON_LIMIT)
    world.stack_with(12, [(1, 0, True), (1, 0, True)], [(SP, 1)])
    world.stack(13, WALK, End.OUTERMOST)
    assert world.ask(10, 11, 12, 13) == [3, 4, 5, 6]
    assert world.functions(6) == []


def test_code_that_comes_too_late_is_not_known(world: Pythons) -> None:
    """A stack is put together once."""
    world.stack_with(7, [(2, 0, False), (1, 0, True)], [(SP, 1)])
    assert world.ask(7) == [1]
    assert world.functions(1) == [(PYTHON, 2, False), ("A.f", 11, True)]
    world.send(code_record(2, "late"))
    world.stack_with(8, [(2, 0, False), (1, 0, True)], [(SP, 1)])
    assert world.ask(7, 8) == [1, 2]
    assert world.functions(2)[0][0] == "late"


def test_code_whose_name_could_not_be_read_is_not_known(world: Pythons) -> None:
    unnamed = bytearray(code_record(2, "x"))
    unnamed[80 + 512 + 32] = 0  # the state of that str
    world.send(bytes(unnamed))
    world.stack_with(7, [(2, 0, True)], [(SP, 1)])
    assert world.ask(7) == [1]
    assert world.functions(1) == [(PYTHON, 2, True)]


def test_the_interpreter_s_own_frames_are_left_out(world: Pythons) -> None:
    """What calls __init__() since 3.13."""
    world.send(code_record(2, "__init__", "__init__", 0), code_record(3, "__init__", "/x.py", 0))
    world.stack_with(7, [(1, 0, False), (2, 0, False), (3, -1, True)], [(SP, 1)])
    assert world.ask(7) == [1]
    assert world.functions(1) == [("A.f", 11, False), ("__init__", 0, True)]


def test_where_there_are_no_frames_it_says_why(world: Pythons) -> None:
    world.stack_with(7, [], [], PYTHON_SEVERAL)
    assert world.ask(7) == [1]
    assert (world.functions(1), world.of(1).python_end) == ([], PythonEnd.SEVERAL)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_frames_of_which_a_part_was_lost(world: Pythons, missing: int) -> None:
    """The native ones are known still; the kernel sends all again where it lost some."""
    records = python_records(7, [(1, 0, True)] * 20, [(SP, 1)])
    world.stacks.learn(np.delete(records, missing))
    world.stack(7, WALK, End.OUTERMOST)
    assert world.ask(7) == [1]
    assert (world.functions(1), list(world.of(1).addresses)) == ([], list(WALK))


def test_frames_that_come_again(world: Pythons) -> None:
    """What came before of them was not finished."""
    records = python_records(7, [(1, 0, True)] * 20)
    world.stacks.learn(records[:2])
    world.stacks.learn(records)
    world.stack(7, WALK, End.OUTERMOST)
    assert world.ask(7) == [1]
    assert len(world.functions(1)) == 20
    world.stack_with(7, [(1, 1, True)])  # the kernel has forgotten that it sent them
    assert world.ask(7) == [1]
    assert len(world.functions(1)) == 20
    assert not world.stacks._python


def test_little_is_kept_of_stacks_that_nobody_has(
    world: Pythons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks_module, "_MOST_RAW", 5)
    for number in range(1, 50):
        world.stacks.learn(python_records(number, [(1, 0, True)]))
    assert len(world.stacks._python) == 5


def test_what_is_refused_leaves_no_locations(
    world: Pythons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks_module, "MOST_STACKS", 1)
    world.stack_with(7, [(1, 0, True)])
    assert world.ask(7) == [1]
    known = len(world.stacks.locations)
    world.stack_with(8, [(1, 1, True)])
    assert world.ask(8) == [0]
    assert (world.stacks.refused, len(world.stacks.locations)) == (1, known)


def test_loops_on_a_copy_of_the_stack(world: Pythons) -> None:
    """Those that the kernel has not come to are placed by the stack pointers of its frames."""
    world.send(copied(7, LEAF, [CALLER, MAIN, 5], sp=SP, exact=True))
    loops = [(SP + 8, -1), (SP + 0x10_0000, -1)]
    world.stack_with(7, [(1, 0, True), (1, 1, True)], loops, native=End.NO_RULE, walk=(LEAF,))
    assert world.ask(7) == [1]
    assert list(world.of(1).addresses) == list(WALK)
    assert world.of(1).loops == (1, -1)


def test_a_loop_in_what_the_kernel_walked_stays(world: Pythons) -> None:
    world.send(copied(7, CALLER, [MAIN, 5], sp=SP + 8))
    loops = [(SP, 0), (SP + 9, -1)]
    world.stack_with(7, [(1, 0, True)] * 2, loops, native=End.NO_RULE, walk=(LEAF, CALLER))
    assert world.ask(7) == [1]
    assert list(world.of(1).addresses) == list(WALK)
    assert world.of(1).loops == (0, 1)


# -- where the interpreter is


def test_a_process_that_maps_an_interpreter_is_a_python(world: Pythons) -> None:
    world.rules.runtimes[1, 0x1000] = Runtime(0x60_0000, V313, MEMBERS_OF[V313])
    first = mappings()[0]
    world.stacks._spaces.code_mapped(TGID, first)
    world.learner.turn()
    assert {value["address"] for _, value in world.kernel.pythons} == {0x60_0000}
    assert world.stacks.refused_pythons == {}


def test_a_command_is_prepared_for(world: Pythons) -> None:
    """What its file says is known before its first instruction."""
    world.rules.runtimes[1, 0x1000] = Runtime(0x60_0000, V313, MEMBERS_OF[V313])
    world.stacks._spaces.code_mapped(TGID, mappings()[0])
    assert not world.kernel.pythons
    world.learner.prepare()
    assert world.kernel.pythons


def test_a_mapping_that_comes_later_is_seen_by_the_spaces(world: Pythons) -> None:
    seen: list[tuple[int, int]] = []
    world.spaces.code_mapped = lambda tgid, mapping: seen.append((tgid, mapping.start))

    class Code:
        def see(self, pid: int, mapping: MmapEvent, *, anew: bool) -> int:
            return 1 if mapping.path else 0

    world.spaces._code = Code()  # type: ignore[assignment]
    for at, path in enumerate(("/bin/x", "")):
        start = CODE + 0x100_0000 * at
        event = MmapEvent(200, TGID, TGID, start, start + 0x1000, 0, "r-xp", 8, 1, path)
        world.spaces.feed([event])
    assert seen == [(TGID, CODE)]


def test_versions_that_are_not_followed(world: Pythons) -> None:
    world.rules.runtimes[1, 0x1000] = Runtime(0, V315, (), NOT_KNOWN)
    world.stacks._spaces.code_mapped(TGID, mappings()[0])
    world.learner.turn()
    assert world.stacks.refused_pythons == {"3.15": "newer than this program knows"}
