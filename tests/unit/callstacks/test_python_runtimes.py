"""Which programs the kernel hears to be a CPython, by what number, and where its runtime is."""

import time
from itertools import chain
from pathlib import Path

import pytest

from tests.unit.learning_data import CHILD, LIB, MOVED, OTHER, TGID, FakeRules
from tests.unit.pythons_data import MEMBERS_OF, V311, V313, V314, V315
from tests.unit.rules_data import BASE, CODE, FakeKernel, program
from tracer.callstacks import python_runtimes
from tracer.callstacks.kernel_rules import KernelRules
from tracer.callstacks.python_runtimes import PythonRuntimes, mix
from tracer.kernel.sideband import MmapEvent
from tracer.procfs.maps import Mapping
from tracer.symbolizing import python_runtime
from tracer.symbolizing.runtime import (
    FREE_THREADED,
    MEMBERS,
    NONE,
    NOT_KNOWN,
    READ_OF_CODE,
    Runtime,
)

STACK, PYTHON = (
    (Path(__file__).parents[3] / "bpf" / name).read_text() for name in ("stack.h", "python.h")
)
EXECUTABLE, LIBRARY = 1, 2  # files
FAR, NEAR = 0x60_0000, (1 << 64) - 0x5000  # of the runtime, from where the file is mapped
ALL = (1 << 64) - 1
SHARED = program().shared


def mapping(file: int = EXECUTABLE, start: int = CODE, offset: int = 0x1000) -> Mapping:
    return Mapping(start, start + 0x1_0000, "r-xp", offset, 8, 100 + file, "/bin/python", file)


def key_of(file: int) -> int:
    return mix(mix(0, 100 + file), 8)


class World:
    """An executable with a CPython, and a library with another one."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(program(1), program(2, base=BASE + MOVED), program(3, 77))
        self.kernel.runs = {TGID: 1, CHILD: 2, OTHER: 3}
        self.rules = FakeRules()
        self.rules.runtimes[EXECUTABLE, 0x1000] = Runtime(FAR, V313, MEMBERS_OF[V313])
        self.rules.runtimes[LIBRARY, 0x1000] = Runtime(NEAR, V313, MEMBERS_OF[V313])
        rules = KernelRules(self.kernel.interface())
        self.pythons = PythonRuntimes(self.rules, rules.program, rules.own_of, rules.install_python)
        rules.renewed = self.pythons.renewed

    def map(self, tgid: int, *mappings: Mapping | MmapEvent) -> None:
        for each in mappings:
            self.pythons.mapped(tgid, each)
        self.pythons.turn()

    def known(self) -> list[tuple[int, int, int]]:
        """By number: address, and whether it is the executable's; what came since the last time."""
        found = [(at, each["address"], each["in_executable"]) for at, each in self.kernel.pythons]
        self.kernel.pythons.clear()
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_the_mixing_is_the_kernel_s() -> None:
    assert "hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;" in STACK
    assert "return hash ^ hash >> 29;" in STACK
    assert mix(0, 0) == 0
    assert mix(ALL, 1) == ((ALL - 1) * 0x9E3779B97F4A7C15 & ALL) ^ (
        ((ALL - 1) * 0x9E3779B97F4A7C15 & ALL) >> 29
    )


def test_an_executable_is_known_by_its_file_and_its_program(world: World) -> None:
    """So that whoever runs it next has it from its start."""
    world.map(TGID, mapping())
    (_, value), _ = world.kernel.pythons
    assert value == {
        **{"address": FAR, "in_executable": 1, "version": V313},
        **dict(zip(MEMBERS, MEMBERS_OF[V313], strict=True)),
        # From co_firstlineno, to its word, to the end of co_linetable.
        **{"code_from": 64, "code_bytes": 136 + 8 - 64},
    }
    assert world.known() == [(key_of(EXECUTABLE), FAR, 1), (SHARED, FAR, 1)]
    world.map(CHILD, mapping())
    world.map(TGID, mapping())
    assert world.known() == []


def test_a_library_is_known_by_where_libraries_are(world: World) -> None:
    world.map(TGID, mapping(LIBRARY, LIB))
    relative = (LIB + NEAR - BASE) & ALL
    assert world.known()[1:] == [(SHARED, relative, 0)]
    world.map(CHILD, mapping(LIBRARY, LIB + MOVED))
    assert world.known() == []  # it is as far from the others
    world.kernel.programs[3] = program(3, 77, libraries=78)
    world.map(OTHER, mapping(LIBRARY, LIB - 0x3000))
    assert world.known() == [(78, relative - 0x3000, 0)]


@pytest.mark.parametrize("version", [*python_runtime._BY_HEADERS, V313, V314])
def test_all_of_a_code_object_is_read_that_is_needed(world: World, version: int) -> None:
    """At once, and no more than the kernel has room for."""
    members = MEMBERS_OF.get(version) or (*chain(*python_runtime._BY_HEADERS[version]),)
    value = world.pythons._value(Runtime(FAR, version, members), FAR, inside=True)
    first, size = value["code_from"], value["code_bytes"]
    each = [value[name] for name in READ_OF_CODE if value[name] != NONE]
    assert (first % 8, min(each) // 8, max(each) + 8) == (0, first // 8, first + size)
    assert "#define CODE_WORDS 16\n" in PYTHON
    assert size < 16 * 8  # the kernel takes it modulo that


def test_of_a_file_the_first_mapping_counts(world: World) -> None:
    """That is the executable's own code, whose start the kernel knows; by its file alone."""
    world.rules.runtimes[EXECUTABLE, 0x9000] = Runtime(NEAR, V313, MEMBERS_OF[V313])
    world.map(TGID, mapping())
    assert world.known() == [(key_of(EXECUTABLE), FAR, 1), (SHARED, FAR, 1)]
    world.map(OTHER, mapping(offset=0x9000))
    assert world.known() == [(77, NEAR, 1)]
    world.map(CHILD, mapping())
    assert world.known() == []


def test_a_process_that_ended_before_its_program_was_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for in vain so long; if it maps the file again, it is asked about again."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    own = world.kernel.runs.pop(TGID)
    world.map(TGID, mapping())
    now[0] += python_runtimes._PATIENCE_S
    world.pythons.turn()
    assert len(world.pythons._pending) == 1
    now[0] += 0.1
    world.pythons.turn()
    assert not world.pythons._pending
    world.pythons.runs(TGID, own)
    world.pythons.turn()
    assert world.known() == [(key_of(EXECUTABLE), FAR, 1)]
    world.map(TGID, mapping())
    assert world.known() == [(SHARED, FAR, 1)]


def test_what_is_mapped_at_run_time(world: World) -> None:
    event = MmapEvent(5, TGID, TGID, CODE, CODE + 0x1000, 0x1000, "r-xp", 8, 101, "/x", EXECUTABLE)
    world.map(TGID, event)
    assert world.known() == [(key_of(EXECUTABLE), FAR, 1), (SHARED, FAR, 1)]


def test_a_file_that_is_not_read_yet(world: World) -> None:
    world.rules.answering_runtimes = False
    world.map(TGID, mapping(), mapping())
    assert world.rules.asked_runtimes == [(EXECUTABLE, 0x1000)]
    assert world.known() == []
    world.rules.answering_runtimes = True
    world.pythons.turn()
    assert [number for number, *_ in world.known()] == [key_of(EXECUTABLE), SHARED]


def test_a_process_whose_program_is_not_known_yet(world: World) -> None:
    """By its file it is known already; by its program once a stack shows which one it runs."""
    del world.kernel.runs[TGID]
    world.map(TGID, mapping())
    assert world.known() == [(key_of(EXECUTABLE), FAR, 1)]
    world.pythons.turn()
    assert world.known() == []
    world.pythons.runs(TGID, 1)  # it has ended since
    world.pythons.turn()
    assert world.known() == [(SHARED, FAR, 1)]


def test_a_program_that_the_kernel_has_forgotten(world: World) -> None:
    world.kernel.runs[TGID] = 99
    world.map(TGID, mapping())
    assert [number for number, *_ in world.known()] == [key_of(EXECUTABLE)]
    world.kernel.runs[TGID] = 1
    world.pythons.turn()
    assert [number for number, *_ in world.known()] == [SHARED]


def test_a_program_that_gets_another_number(world: World) -> None:
    """It is a Python still."""
    world.map(TGID, mapping(LIBRARY, LIB))
    world.known()
    world.kernel.programs[4] = program(4, 55)
    world.kernel.runs[TGID] = 4
    world.pythons.renewed(TGID)
    world.pythons.renewed(CHILD)  # it is none
    world.pythons.turn()
    assert world.known() == [(55, (LIB + NEAR - BASE) & ALL, 0)]
    # An answer that was forgotten meanwhile is asked for again.
    world.rules.asked_runtimes.clear()
    world.pythons.renewed(TGID)
    assert world.rules.asked_runtimes == [(LIBRARY, 0x1000)]


def test_a_file_that_is_no_python_is_asked_about_once(world: World) -> None:
    for tgid in (TGID, CHILD):
        world.map(tgid, mapping(7))
    assert world.rules.asked_runtimes == [(7, 0x1000)]
    assert world.known() == []
    world.map(TGID, mapping(7, offset=0x9000))
    assert world.rules.asked_runtimes[1:] == [(7, 0x9000)]


@pytest.mark.parametrize(
    ("version", "why", "said"),
    [
        (V313, FREE_THREADED, {"3.13t": "a free-threaded build"}),
        (V315, NOT_KNOWN, {"3.15": "newer than this program knows"}),
    ],
)
def test_a_version_that_is_not_followed_is_named(
    world: World, version: int, why: int, said: dict[str, str]
) -> None:
    world.rules.runtimes[EXECUTABLE, 0x1000] = Runtime(FAR, version, (), why)
    for tgid in (TGID, CHILD):
        world.map(tgid, mapping())
    assert world.known() == []
    assert world.pythons.refused == said
    assert not world.pythons._pending


def test_little_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MOST_PENDING", "_MOST_PROGRAMS", "_MOST_FILES"):
        monkeypatch.setattr(python_runtimes, name, 3)
    world.rules.runtimes.update(
        {(file, 0x1000): Runtime(FAR, V311, MEMBERS_OF[V313]) for file in range(20, 30)}
    )
    for number in range(10, 40):
        world.kernel.programs[number] = program(number, 1000 + number)
        world.pythons.runs(number, number)
        world.map(number, mapping(number))
        world.map(900 + number, mapping(number))  # nobody knows what that runs
    assert len(world.pythons._pending) <= 3
    assert len(world.pythons._none) <= 3
    assert len(world.pythons._programs) <= 3
    assert len(world.pythons._mapped) <= 3
    assert len(world.pythons._installed) <= 3
    assert len(world.pythons._first) <= 3
