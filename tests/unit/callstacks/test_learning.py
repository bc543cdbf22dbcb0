"""Rules learned from copies of stacks."""

import time

import pytest

from tests.unit.copies_data import copied
from tests.unit.learning_data import (
    CHILD,
    JIT,
    LIB,
    MOVED,
    OTHER,
    RSP,
    TGID,
    VDSO_AT,
    Learning,
)
from tests.unit.rules_data import BASE, CODE, program
from tracer.callstacks import kernel_rules, learning, records
from tracer.callstacks.file_rules import RETURN
from tracer.callstacks.kernel_rules import value_of
from tracer.callstacks.locations import VDSO, Location
from tracer.callstacks.unwinding import NO_CALL
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.wire.shared import COPIED_BELOW

FRAME = Rule(Cfa.FRAME)
DATA, STACK = CODE + 0x2_0010, 0x7FFC_0000_0010
MINE, THEIRS = program(1), program(3, 77, base=BASE + MOVED)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Learning:
    monkeypatch.setattr(learning, "_AGAIN_NS", 0)
    monkeypatch.setattr(learning, "_TIMES", 0)
    return Learning()


def key(address: int, *, exact: bool = False) -> int:
    return MINE.key(address, exact=exact)


def test_all_words_that_may_be_return_addresses_are_asked_for(world: Learning) -> None:
    words = [LIB + 0x200, STACK, DATA, 0, (1 << 64) - 1, CODE + 0x10, LIB + 0x200, LIB + 0x10000]
    world.send(copied(1, LIB + 0x100, words))
    # A call is before its return address. The program's code is mapped from 0x1000 on.
    assert sorted(world.rules.asked) == [(1, 0x100F), (2, 0xFF), (2, 0x1FF)]
    assert world.rules.waits[0] == 0.0
    expected = dict.fromkeys([key(LIB + 0x100), key(LIB + 0x200), key(CODE + 0x10)], value_of(RSP))
    assert world.kernel.rules == expected


def test_a_faulting_instruction_is_asked_for_itself(world: Learning) -> None:
    world.send(copied(1, LIB + 0x100, exact=True))
    assert world.rules.asked == [(2, 0x100)]
    assert world.kernel.rules == {key(LIB + 0x100, exact=True): value_of(RSP)}
    world.send(copied(2, LIB + 0x100))
    assert world.rules.asked[1:] == [(2, 0xFF)]


def test_nothing_is_asked_for_twice(world: Learning) -> None:
    words = [LIB + 0x200, LIB + 0x300]
    world.send(copied(1, LIB + 0x100, words))
    asked = len(world.rules.asked)
    world.send(copied(2, LIB + 0x100, [LIB + 0x999]))  # ends at the same frame
    world.send(copied(3, LIB + 0x200, words))  # at one that is known
    assert len(world.rules.asked) == asked
    world.send(copied(4, LIB + 0x400, [*words, LIB + 0x500]))
    assert sorted(world.rules.asked[asked:]) == [(2, 0x3FF), (2, 0x4FF)]
    # What is known of the file already is not asked for, either: of another program, say.
    world.send(copied(5, LIB + MOVED + 0x100, words, program=3, tgid=OTHER))
    assert len(world.rules.asked) == asked + 2


def test_answers_are_installed_when_they_come(world: Learning) -> None:
    world.rules.answering = False
    world.send(copied(1, LIB + 0x100, [LIB + 0x200]))
    assert world.kernel.rules == {}
    world.learner.turn(0.25)
    assert world.rules.waits[-1] == 0.25
    assert len(world.rules.asked) == 2
    world.rules.answer()
    world.learner.turn()
    assert world.kernel.rules.keys() == {key(LIB + 0x100), key(LIB + 0x200)}
    waits = len(world.rules.waits)
    world.learner.turn(0.25)  # nothing is missing: it does not wait
    assert len(world.rules.waits) == waits


def test_what_no_call_is_before_is_data(world: Learning) -> None:
    world.rules.codes[2, 0x1FF] = CodeRule(RSP, after_call=False, bare_page=False)
    world.send(copied(1, LIB + 0x100, [LIB + 0x200]))
    # A word that nothing led to needs no rule: it is no return address here, and may be elsewhere.
    assert world.kernel.rules == {key(LIB + 0x100): value_of(RSP)}
    world.send(copied(2, LIB + 0x200))  # the kernel took it for one
    assert world.kernel.rules[key(LIB + 0x200)] == value_of(NO_CALL)


def test_a_page_without_unwind_information_has_one_rule(world: Learning) -> None:
    world.rules.codes[2, 0xFF] = CodeRule(FRAME, after_call=True, bare_page=True)
    world.rules.codes[2, 0x20FF] = CodeRule(FRAME, after_call=False, bare_page=True)
    world.send(copied(1, LIB + 0x100, [LIB + 0x2100]))
    assert world.kernel.rules == {
        key(LIB + 0x100): value_of(FRAME),
        MINE.page_key(LIB + 0x100): value_of(FRAME),
    }
    world.send(copied(2, LIB + 0x2100))
    assert world.kernel.rules[key(LIB + 0x2100)] == value_of(NO_CALL)


def test_compiled_code_has_rules_of_its_process_s_pages(world: Learning) -> None:
    world.send(copied(1, JIT + 0x100, [JIT + 0x200, JIT + 0x5000]))
    assert world.rules.asked == []
    expected = [MINE.own_page_key(JIT + at) for at in (0, 0x5000)]
    assert world.kernel.rules == dict.fromkeys(expected, value_of(FRAME))


def test_the_vdso_is_a_file(world: Learning) -> None:
    world.send(copied(1, VDSO_AT + 0x100))
    assert world.rules.asked == [(VDSO, 0xFF)]
    assert world.kernel.rules == {key(VDSO_AT + 0x100): value_of(RSP)}


def test_a_program_that_is_not_known_any_more(world: Learning) -> None:
    world.send(copied(1, LIB + 0x100, program=99), copied(2, LIB + 0x100, program=0))
    assert world.rules.asked == []
    assert world.learner.pop(1) is not None


# -- an address that is in no mapping ------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_an_address_in_no_mapping_is_data(world: Learning, exact: bool) -> None:
    """But what faulted was code."""
    world.send(copied(1, DATA, exact=exact))
    expected = {} if exact else {key(DATA): value_of(NO_CALL)}
    assert world.kernel.rules == expected
    assert world.rules.asked == []


def test_but_not_if_the_mappings_were_read_before(world: Learning) -> None:
    later = time.monotonic_ns() + 3_600_000_000_000
    world.send(copied(1, DATA, time_ns=later))
    assert world.kernel.rules == {}
    world.send(copied(2, DATA + 8, time_ns=time.monotonic_ns()))
    assert world.kernel.rules == {key(DATA + 8): value_of(NO_CALL)}
    assert world.read == [TGID, TGID]


def test_nor_if_another_process_s_were(world: Learning, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(copied(1, LIB + 0x100))
    monkeypatch.setattr(learning, "_AGAIN_NS", 1 << 60)
    before = dict(world.kernel.rules)
    world.send(copied(2, DATA, program=2, tgid=CHILD))
    assert world.kernel.rules == before
    assert world.read == [TGID]
    monkeypatch.setattr(learning, "_AGAIN_NS", 0)
    world.send(copied(3, DATA + 8, program=2, tgid=CHILD))
    assert world.read == [TGID, CHILD]
    theirs = program(2, base=BASE + MOVED).key(DATA + 8, exact=False)
    assert world.kernel.rules == {**before, theirs: value_of(NO_CALL)}


@pytest.mark.parametrize("gone", [False, True])
def test_a_process_that_has_called_exec_since_is_not_believed(world: Learning, gone: bool) -> None:
    """Nor is one that has ended."""
    if gone:
        del world.maps[TGID]
    world.kernel.runs[TGID] = 9
    world.send(copied(1, DATA), copied(2, LIB + 0x100, [LIB + 0x200]))
    assert world.read
    assert (world.rules.asked, world.kernel.rules) == ([], {})
    assert world.learner.pop(2) is not None


def test_mappings_are_read_where_there_may_be_new_ones(
    world: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.send(copied(1, LIB + 0x100), copied(2, LIB + 0x200), copied(3, CODE))
    assert world.read == [TGID]
    new = LIB - 0x8_0000
    world.maps[TGID].insert(3, world.maps[TGID][3]._replace(start=new, end=new + 0x1000, file=4))
    monkeypatch.setattr(learning, "_AGAIN_NS", 1 << 60)  # but not so often
    world.send(copied(4, new + 0x10, time_ns=time.monotonic_ns()))
    assert world.read == [TGID]
    monkeypatch.setattr(learning, "_AGAIN_NS", 0)
    world.send(copied(5, new + 0x18, time_ns=time.monotonic_ns()))
    assert world.read == [TGID, TGID]
    assert world.rules.asked[-1] == (4, 0x17)


def test_where_a_library_is_large_libraries_are_separate(world: Learning) -> None:
    """The kernel aligns it to a huge page: what follows is elsewhere in each process."""
    world.send(copied(1, LIB + 0x100))
    assert world.kernel.separate == []
    large = Mapping(LIB - 0x60_0000, LIB - 0x40_0000, "r--p", 0, 8, 5, "/lib/large.so", 5)
    world.maps[OTHER].insert(2, large)
    world.send(copied(2, LIB + MOVED + 0x100, program=3, tgid=OTHER))
    assert world.kernel.separate == [THEIRS.shared]
    assert world.kernel.renewed == []


def test_libraries_that_are_separate_have_rules_of_their_own(world: Learning) -> None:
    """The code of the program has the same ones, and its files' rules are known."""
    apart = world.kernel.programs[2] = program(2, base=BASE + MOVED, libraries=2)
    world.send(copied(1, LIB + 0x100, [CODE + 0x10]))
    world.send(copied(2, LIB + MOVED + 0x300, program=2, tgid=CHILD))
    assert world.read == [TGID, CHILD]
    assert world.rules.asked[2:] == [(2, 0x2FF)]
    assert world.kernel.rules.keys() == {
        key(LIB + 0x100),
        key(CODE + 0x10),
        *(apart.key(LIB + MOVED + at, exact=False) for at in (0x100, 0x300)),
    }


def test_a_process_of_the_same_program_needs_no_reading(world: Learning) -> None:
    """Its libraries are elsewhere, and have the same rules."""
    world.send(copied(1, LIB + 0x100))
    world.send(copied(2, LIB + MOVED + 0x300, [LIB + MOVED + 0x100], program=2, tgid=CHILD))
    assert world.read == [TGID]
    assert world.rules.asked == [(2, 0xFF), (2, 0x2FF)]
    assert world.kernel.rules.keys() == {key(LIB + 0x100), key(LIB + 0x300)}


def test_another_program_begins_with_what_is_known_of_its_files(world: Learning) -> None:
    world.send(copied(1, LIB + 0x100, [LIB + 0x200, VDSO_AT + 0x10, CODE + 0x10]))
    world.rules.asked.clear()
    world.send(copied(2, LIB + MOVED + 0x400, program=3, tgid=OTHER))
    assert world.rules.asked == [(2, 0x3FF)]
    for address in (LIB + MOVED + 0x100, LIB + MOVED + 0x200, CODE + 0x10):
        assert world.kernel.rules[THEIRS.key(address, exact=False)] == value_of(RSP)
    assert THEIRS.key(VDSO_AT + 0x10, exact=False) not in world.kernel.rules


def test_a_program_begins_with_the_rules_of_earlier_runs(world: Learning) -> None:
    """They are not asked for, whatever words of a copy they are for."""
    world.learner.files.load = lambda file: {(0x200, RETURN): value_of(FRAME)} if file == 2 else {}
    world.send(copied(1, LIB + 0x100, [LIB + 0x200, LIB + 0x300]))
    assert sorted(world.rules.asked) == [(2, 0xFF), (2, 0x2FF)]
    assert world.kernel.rules[key(LIB + 0x200)] == value_of(FRAME)
    assert len(world.kernel.rules) == 3


# -- the copies ------------------------------------------------------------------------------------


def test_a_copy_in_parts(world: Learning) -> None:
    first, size = copied(1, LIB + 0x100, [LIB + 0x200]), COPIED_BELOW + 8
    world.send(
        first,
        copied(1, LIB + 0x100, [LIB + 0x300], offset=size),
        copied(1, LIB + 0x100, [LIB + 0x400], offset=size + 8),
    )
    assert sorted(offset for _, offset in world.rules.asked) == [0xFF, 0x1FF, 0x2FF, 0x3FF]
    copy = world.learner.pop(1)
    assert copy is not None
    assert copy.words()[16:].tolist() == [LIB + 0x200, LIB + 0x300, LIB + 0x400]
    assert world.learner.pop(1) is None
    assert world.learner._bytes == 0


def test_parts_that_were_lost(world: Learning) -> None:
    size = COPIED_BELOW + 8
    world.send(copied(1, LIB + 0x100, [5], offset=size))
    assert world.learner.pop(1) is None  # it lacks its beginning
    world.send(copied(2, LIB + 0x100, [4]), copied(2, LIB + 0x100, [6], offset=size + 8))
    copy = world.learner.pop(2)
    assert copy is not None
    assert copy.words()[16:].tolist() == [4]
    assert world.learner._bytes == 0


def test_a_copy_that_comes_again_is_the_last(world: Learning) -> None:
    world.send(copied(1, LIB + 0x100, [4]), copied(1, LIB + 0x100, [5]))
    copy = world.learner.pop(1)
    assert copy is not None
    assert copy.words()[16:].tolist() == [5]
    assert world.learner._bytes == 0


def test_no_more_copies_than_there_is_room_for(
    world: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go: nobody may want them any more. Rules are learned from them all the same."""
    monkeypatch.setattr(learning, "_MOST_BYTES", 2 * len(copied(1, LIB)))
    world.send(copied(1, LIB + 0x100), copied(2, LIB + 0x200))
    assert world.learner.dropped == 0
    world.send(copied(3, LIB + 0x300), copied(4, LIB + 0x400), copied(5, LIB + 0x500))
    assert world.learner.dropped == 3
    assert [world.learner.pop(at) is not None for at in range(1, 6)] == [False] * 3 + [True] * 2
    assert world.kernel.rules.keys() == {key(LIB + 0x100 * at) for at in range(1, 6)}
    assert world.learner._bytes == 0


@pytest.mark.parametrize("alike", [True, False])
def test_twice_as_many_copies_cost_twice_as_much(
    monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    """Those that end at one frame cost what receiving them does."""
    costs = []
    for count in (100, 200):
        world, calls = Learning(), [0, 0]

        def counted(at: int, function: object, calls: list[int] = calls) -> object:
            def call(*arguments: object) -> object:
                calls[at] += 1
                return function(*arguments)  # type: ignore[operator]

            return call

        with monkeypatch.context() as patched:
            patched.setattr(learning, "ends_at", counted(0, records.ends_at))
            patched.setattr(learning, "part_of", counted(1, records.part_of))
            words = [LIB + 0x8000 + 16 * at for at in range(50)]
            world.send(
                *(
                    copied(at, LIB + 0x100 + (0 if alike else 8 * at), words)
                    for at in range(1, count + 1)
                )
            )
        assert len(world.read) == 1
        assert len(world.rules.waits) == 1
        costs.append((*calls, world.rules.lookups - 2 * len(words), world.kernel.installs))
    assert costs == [(n, 1 if alike else n, 2 if alike else 2 * n, 1) for n in (100, 200)]


# -- what a copy was found to lead to ----------------------------------------------------------


def test_what_a_walk_led_to_is_learned(world: Learning) -> None:
    """Also where the process that sent it was gone."""
    lib = Location(False, "/lib/x.so", 0x100, returns=True, file=2)
    compiled = Location(False, "[anon]", JIT, TGID, True, address=JIT)
    world.rules.ask_rules([lib])
    found = [(LIB + 0x100, False, lib), (JIT, False, compiled)]
    world.learner.learn(MINE, found)
    assert world.kernel.rules == {
        key(LIB + 0x100): value_of(RSP),
        MINE.own_page_key(JIT): value_of(FRAME),
    }
    installs = world.kernel.installs
    world.learner.learn(MINE, found)
    assert world.kernel.installs == installs


def test_rules_that_were_dropped_are_learned_again(
    world: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.send(copied(1, LIB + 0x100, [LIB + 0x200]))
    world.installed._drop(MINE.shared)
    assert world.kernel.rules == {}
    world.send(copied(2, LIB + 0x100, [LIB + 0x200]))
    assert world.kernel.rules.keys() == {key(LIB + 0x100), key(LIB + 0x200)}


def test_a_program_may_lose_its_rules_while_copies_of_it_are_read(
    world: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program's files bring more rules than there is room for."""
    monkeypatch.setattr(kernel_rules, "MOST_RULES", 4)
    world.send(copied(1, LIB + 0x100, [LIB + 0x200, LIB + 0x300]))
    world.send(
        copied(2, LIB + 0x400, [LIB + 0x500]),
        copied(3, LIB + MOVED + 0x600, program=3, tgid=OTHER),
    )
    assert (2, 0x4FF) in world.rules.asked
    assert world.learner.pop(3) is not None


def test_other_work_tends_it_now_and_then(world: Learning, monkeypatch: pytest.MonkeyPatch) -> None:
    world.learner.turn()
    monkeypatch.setattr(learning, "_TURN_NS", 1 << 60)
    reads = world.ring.reads
    world.learner.tend()
    assert world.ring.reads == reads
    monkeypatch.setattr(learning, "_TURN_NS", 0)
    world.learner.tend()
    assert world.ring.reads == reads + 1


def test_it_is_served_and_closed_by_its_ring(world: Learning) -> None:
    assert world.learner.fd == world.ring.fd
    world.learner.close()
    assert world.ring.closed
    reads = world.ring.reads
    world.learner.tend()
    assert world.ring.reads == reads
