"""The maps by which stacks are walked: rules, and which program each process runs."""

import errno
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from tests.unit.faults_data import LAYOUT
from tracer.probes.unwind_maps import COPIES_BYTES, UnwindMaps
from tracer.symbolizing.runtime import MEMBERS
from tracer.wire.shared import pack, unpack

PROGRAM, PYTHON = LAYOUT.structs["program"], LAYOUT.structs["python_runtime"]
VALUES = {"own": 7, "shared": 8, "libraries": 9, "code_start": 0x400000, "mapped": 3}


class FakeMap:
    def __init__(self) -> None:
        self.fd = -1
        self.values: dict[bytes, bytes] = {}
        self.full = False

    def update(self, key: bytes, value: bytes, *, only_existing: bool = False) -> None:
        if only_existing and key not in self.values:
            raise FileNotFoundError
        if self.full and key not in self.values:
            raise OSError(errno.E2BIG, "")
        self.values[key] = value

    def lookup(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self.values.items()

    def update_many(self, keys: bytes, values: bytes) -> None:
        for at in range(0, len(keys), 8):
            self.values[keys[at : at + 8]] = values[at : at + 8]

    def remove_many(self, keys: bytes) -> None:
        for at in range(0, len(keys), 8):
            del self.values[keys[at : at + 8]]


class World:
    def __init__(self) -> None:
        names = ("copies", "rules", "programs", "known_programs", "unalike", "targets", "pythons")
        self.maps = {name: FakeMap() for name in (*names, "rules_epoch")}
        self.unwind = UnwindMaps(cast(Any, self.maps), PROGRAM, PYTHON)
        value = pack(PROGRAM, **VALUES)
        self.maps["programs"].update((42).to_bytes(4, "little"), value)
        self.maps["known_programs"].update((7).to_bytes(8, "little"), value)

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        return {name: dict(each.values) for name, each in self.maps.items()}


@pytest.fixture
def world() -> World:
    return World()


def test_rules_are_set_and_removed(world: World) -> None:
    keys, values = np.array([1, 2, (1 << 64) - 1], np.uint64), np.array([5, 6, 7], np.uint64)
    world.unwind.install(keys, values)
    assert world.maps["rules"].values == {
        key.tobytes(): value.tobytes() for key, value in zip(keys, values, strict=True)
    }
    world.unwind.remove(keys[1:])
    assert list(world.maps["rules"].values) == [keys[0].tobytes()]


def test_with_each_removal_there_is_another_epoch(world: World) -> None:
    """Rules that are removed are in no cache of the kernel's any more."""
    epochs = world.maps["rules_epoch"].values
    keys = np.array([1, 2], np.uint64)
    world.unwind.install(keys, keys)
    assert epochs == {}
    for at in (0, 1):
        world.unwind.remove(keys[at : at + 1])
        assert epochs == {bytes(4): (at + 1).to_bytes(8, "little")}


def test_where_a_python_is(world: World) -> None:
    """What is known of a program is in no cache any more; where there is no room it is not."""
    runtime = {"address": (1 << 64) - 8, "in_executable": 1, "version": 0x30B, "code_start": 184}
    pythons, epochs = world.maps["pythons"], world.maps["rules_epoch"].values
    world.unwind.install_python(7, runtime)
    (value,) = pythons.values.values()
    assert list(pythons.values) == [(7).to_bytes(8, "little")]
    assert value == pack(PYTHON, **runtime)
    assert pack(PYTHON, **dict.fromkeys(MEMBERS, 0xFFFF)).count(b"\xff\xff") == len(MEMBERS)
    assert epochs == {bytes(4): (1).to_bytes(8, "little")}
    pythons.full = True
    world.unwind.install_python((1 << 64) - 1, runtime)
    assert len(pythons.values) == 1


def test_which_programs_there_are(world: World) -> None:
    assert world.unwind.program_of(42) == 7
    assert world.unwind.program_of(43) == 0
    known = world.unwind.known_program(7)
    assert known is not None
    assert (known["own"], known["shared"], known["code_start"]) == (7, 8, 0x400000)
    assert world.unwind.known_program(8) is None
    assert world.unwind.running_programs() == {7, 8, 9}


@pytest.mark.parametrize("another", [True, False])
def test_a_process_gets_a_program_of_its_own(world: World, another: bool) -> None:
    """Or only its libraries are: the rules for its own code hold."""
    before = unpack(PROGRAM, world.maps["programs"].values[(42).to_bytes(4, "little")])
    world.unwind.renew_program(42, 7, another)
    own = world.unwind.program_of(42)
    known = world.unwind.known_program(own)
    assert known is not None
    assert {known["own"], known["libraries"]}.isdisjoint({7, 8, 9})
    assert (known["shared"] == 8) == (not another)
    assert {**known, "own": 7, "shared": 8, "libraries": 9} == before
    assert world.unwind.known_program(7) == before  # stacks of before may still come


@pytest.mark.parametrize(("tgid", "own"), [(42, 9), (43, 7)])
def test_not_if_it_runs_another_by_now(world: World, tgid: int, own: int) -> None:
    before = world.contents()
    world.unwind.renew_program(tgid, own, another=True)
    assert world.contents() == before


def test_one_that_ends_meanwhile_is_not_there_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, key = world.maps["programs"], (42).to_bytes(4, "little")
    monkeypatch.setattr(programs, "lookup", programs.values.pop)
    world.unwind.renew_program(42, 7, another=True)
    assert key not in programs.values


def test_whose_libraries_lie_differently(world: World) -> None:
    world.unwind.unalike(8)
    unalike = world.maps["unalike"]
    assert unalike.values == {(8).to_bytes(8, "little"): b"\1"}
    unalike.full = True
    world.unwind.unalike(9)
    assert len(unalike.values) == 1


def test_after_the_end_they_do_nothing(world: World) -> None:
    """The descriptors may be others by then."""
    before = world.contents()
    world.unwind.close()
    one = np.array([1], np.uint64)
    world.unwind.install(one, one)
    world.unwind.remove(one)
    world.unwind.renew_program(42, 7, another=True)
    world.unwind.unalike(8)
    world.unwind.install_python(7, {"address": 1})
    assert world.unwind.known_program(7) is None
    assert world.unwind.program_of(42) == 0
    assert world.unwind.running_programs() == set()
    assert world.contents() == before


def test_the_ring_s_size_is_one_that_the_kernel_allows() -> None:
    assert COPIES_BYTES & (COPIES_BYTES - 1) == 0
    assert COPIES_BYTES % 4096 == 0
