"""Which function was at an address when: against a plain model, and where it is not known."""

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import pytest

from tests.unit.fuzz.mutation import every
from tracer.callstacks.code_versions import (
    NOTHING,
    REPLACED,
    SEVERAL,
    Code,
    CodeVersions,
    Version,
    history_of,
)
from tracer.callstacks.jit_names import JitName
from tracer.callstacks.locations import Location
from tracer.symbolizing.history import NEVER, Change, Period

PID, AT = 7, 0x1000
CODE = PID, AT


class Maps:
    """Perf maps as they are known: histories, and until when."""

    def __init__(self) -> None:
        self.failed: dict[int, str] = {}
        self.changes: dict[int, list[Change]] = {}
        self.each: list[Period] = []
        self.until = NEVER
        self.over = False

    def compile(self, before_ns: int, by_ns: int, *names: str, address: int = AT) -> None:
        """These functions were listed at an address, one after another, between two checks."""
        self.each.append(Period(before_ns, by_ns))
        self.changes.setdefault(address, []).extend((len(self.each), each, 4) for each in names)
        self.until = by_ns

    def ask(self, pid: int, addresses: Sequence[int], until_ns: int = NEVER) -> None:
        pass

    def hurry(self) -> None:
        pass

    def asking(self, pid: int) -> bool:
        return False

    def conclude(self) -> None:
        self.until = 1 << 62

    def history(self, pid: int, address: int) -> list[Change] | None:
        return self.changes.get(address, []) if self.until != NEVER else None

    def periods(self, pid: int) -> list[Period]:
        return self.each

    def known_until(self, pid: int) -> int:
        return self.until

    def ended(self, pid: int, address: int) -> bool:
        return self.over


class Stacks:
    """Stack 1 is of our code, 2 of a file's; the variants are numbered from 3."""

    def __init__(self, codes: Sequence[Code] = (CODE,)) -> None:
        self.codes = codes
        self.variants: list[Mapping[Code, int]] = []

    def made(self, number: int) -> Sequence[Code]:
        return self.codes if number == 1 else ()

    def variant(self, number: int, versions: Mapping[Code, int]) -> int:
        assert number == 1
        if versions not in self.variants:
            self.variants.append(versions)
        return 3 + self.variants.index(versions)


class World:
    def __init__(self) -> None:
        self.maps, self.stacks = Maps(), Stacks()
        self.versions = CodeVersions(self.maps, lambda: None)  # type: ignore[arg-type]

    def faults(self, *times_ns: int, stack: int = 1) -> list[int]:
        numbers = np.full(len(times_ns), stack, np.uint32)
        times = np.array(times_ns, np.uint64)
        found: list[int] = self.versions.split(numbers, times, self.stacks).tolist()
        return found

    def name(self, stack: int = 1, address: int = AT) -> str:
        """Of a stack's code; "" where it has none."""
        version = 0 if stack == 1 else self.stacks.variants[stack - 3].get((PID, address), 0)
        location = Location(False, "[anon]", address, PID, address=address, version=version)
        found = self.versions.name(location)
        assert found is None or found[1] == 4
        return found[0].function if found else ""

    def why(self, stack: int = 1) -> str:
        version = 0 if stack == 1 else self.stacks.variants[stack - 3][CODE]
        return self.versions.why(Location(False, "", AT, PID, address=AT, version=version))


@pytest.fixture
def world() -> World:
    return World()


def test_what_no_check_came_between(world: World) -> None:
    """One function all the time: the stack is what it was."""
    world.maps.compile(NEVER, 10, "f")
    world.maps.until = 100
    assert world.faults(5, 50) == [1, 1]
    assert world.faults(60, stack=2) == [2]
    assert world.name() == "f"
    assert world.why() == ""


def test_an_address_that_is_used_again(world: World) -> None:
    """By the time of the fault; between the checks it may have been either."""
    world.maps.compile(NEVER, 10, "first")
    world.maps.compile(40, 50, "second")
    world.maps.compile(80, 90, "first")
    world.maps.until = 200
    numbers = world.faults(5, 40, 41, 50, 51, 80, 85, 91)
    assert numbers == [1, 1, 3, 3, 4, 4, 3, 1]
    assert [world.name(number) for number in (1, 3, 4)] == ["first", "", "second"]
    assert [world.why(number) for number in (1, 3, 4)] == ["", REPLACED, ""]


def test_the_first_that_is_met_need_not_be_the_first(world: World) -> None:
    world.maps.compile(NEVER, 10, "first")
    world.maps.compile(40, 50, "second")
    world.maps.until = 200
    assert world.faults(60, 45) == [3, 1]
    assert [world.name(number) for number in (1, 3)] == ["", "second"]


def test_a_fault_before_the_map_was_read(world: World) -> None:
    """It is judged later, by the map of its time."""
    assert world.faults(50) == [1]
    assert world.name() == ""
    world.maps.compile(NEVER, 40, "first")
    assert world.name() == ""  # what came between 40 and 50 is not known
    world.maps.compile(60, 70, "second")
    assert world.name() == "first"
    world.maps.until = 100
    assert world.faults(80) == [3]
    assert world.name(3) == "second"


def test_a_version_that_turns_out_to_be_two(world: World) -> None:
    """Faults were taken for the first function's before the second was read about."""
    world.maps.compile(NEVER, 10, "first")
    assert world.faults(5) == [1]
    assert world.name() == "first"
    assert world.faults(60) == [1]
    world.maps.compile(40, 50, "second")
    world.maps.until = 100
    assert world.name() == ""
    assert world.why() == REPLACED
    assert world.faults(70) == [3]
    assert world.name(3) == "second"


def test_code_that_is_listed_before_it_runs(world: World) -> None:
    """So where nothing was there before, it is what the next check found."""
    world.maps.compile(NEVER, 10, "other", address=0x2000)
    world.maps.compile(40, 50, "f")
    world.maps.until = 100
    numbers = world.faults(30, 45, 60)
    assert numbers[1] == numbers[2] != numbers[0]
    assert [world.name(each) for each in numbers[:2]] == ["", "f"]
    assert world.why(numbers[0]) == ""


def test_the_same_function_compiled_again(world: World) -> None:
    """By another tier."""
    world.maps.compile(NEVER, 10, "JS:~f /w.js:1:1")
    world.maps.compile(40, 50, "JS:^f /w.js:1:1", "JS:*f /w.js:1:1")
    assert world.faults(5, 45, 60) == [1, 1, 1]
    world.maps.until = 100
    assert world.name() == "f"


def test_a_map_that_is_given_up(world: World) -> None:
    world.maps.compile(NEVER, 10, "f")
    assert world.faults(5) == [1]
    assert world.name() == "f"
    world.faults(60)
    world.maps.failed[PID] = "it is too large"
    assert world.name() == ""
    assert world.why() == "the perf map of its process was given up: it is too large"


def test_a_trace_that_ends_at_once(world: World) -> None:
    """What is not judged has no name."""
    world.maps.compile(NEVER, 10, "f")
    assert world.faults(5) == [1]
    world.faults(60)
    world.versions.give_up()
    assert world.name() == ""


def test_it_is_settled_when_the_process_has_ended(world: World) -> None:
    location = Location(False, "[anon]", AT, PID, address=AT)
    world.faults(60)
    world.maps.compile(NEVER, 10, "f")
    world.maps.over = True
    assert not world.versions.settled(location)
    world.maps.until = 100
    assert world.versions.settled(location)


def test_a_stack_whose_frames_were_revised(world: World) -> None:
    """What is new in it is judged by all times at which the stack was met."""
    world.maps.compile(NEVER, 10, "f")
    world.maps.compile(40, 50, "first", "second", address=0x2000)
    world.maps.until = 100
    world.faults(20, 60)
    world.stacks.codes = CODE, (PID, 0x2000)
    world.versions.revised(1, world.stacks)
    world.versions.revised(2, world.stacks)
    assert world.name() == "f"
    assert world.name(address=0x2000) == ""


def test_a_history() -> None:
    found = history_of([(1, "a", 0), (2, "b", 1), (2, "", 0)], [Period(NEVER, 5), Period(7, 9)])
    assert found.bounds_ns == [NEVER, 5, 7, 9]
    a = Version(JitName("a"))
    assert found.steps == [NOTHING, a, a, SEVERAL, NOTHING]
    assert found.at(1, 7) == a
    assert found.at(1, 8) == SEVERAL
    assert not found.plain


def test_against_a_model() -> None:
    """Code is compiled, runs, and is replaced; checks come at any time, and the map is read late.

    No fault has another function's name; one that no replacement is near has its own.
    """

    def check(random: Random) -> None:
        world = World()
        events = sorted(
            [(random.randrange(3000), "compile") for _ in range(random.randrange(1, 5))]
            + [(random.randrange(3000), "fault") for _ in range(12)]
        )
        events = [(0, "compile"), *((at * 2 + 2, what) for at, what in events)]
        checks = sorted({1, *(random.randrange(7000) * 2 + 1 for _ in range(12)), 20001})
        truth: dict[int, str] = {}
        found: dict[int, int] = {}
        name = ""
        listed: list[tuple[int, str]] = []
        for at, what in events:
            if what == "compile":
                name = random.choice("abc")
                listed.append((at, name))
            else:
                truth[at] = name
        before, faults = NEVER, sorted(truth)
        for end in checks:
            if random.random() < 0.5:  # its faults are read before its map
                found |= {at: world.faults(at)[0] for at in faults if before < at < end}
            if names := [each for at, each in listed if before < at < end]:
                world.maps.compile(before, end, *names)
            world.maps.until = end
            found |= {
                at: world.faults(at)[0] for at in faults if before < at < end and at not in found
            }
            before = end
        for at, number in found.items():
            assert world.name(number) in ("", truth[at]), (at, truth, checks, listed)

    every("versions of code", 300, check)
