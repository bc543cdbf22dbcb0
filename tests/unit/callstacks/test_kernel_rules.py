"""The kernel's unwind rules: their keys and values, and what becomes of them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.faults_data import LAYOUT
from tests.unit.rules_data import BASE, CODE, CODE_END, FakeKernel, program
from tracer.callstacks import kernel_rules
from tracer.callstacks.kernel_rules import KernelRules, Program, value_of
from tracer.symbolizing.rule import AT_RBP, FAR, FAR_RBP, FAR_RBX, KEPT, UNKNOWN, Cfa, Rule
from tracer.wire.shared import RULE_CODE, unpack

ALL = (1 << 64) - 1
WORDS = st.one_of(st.integers(0, ALL), st.integers(CODE - 9, CODE_END + 9), st.integers(0, 9))
UNWIND = (Path(__file__).parents[3] / "bpf" / "unwind.bpf.h").read_text()


def u64(number: int) -> int:
    return number & ALL


def kernel_keys(p: Program, ip: int, exact: int) -> tuple[int, int, int]:
    """As bpf/unwind.bpf.h computes them: an address's, its page's, and its process's own page's."""
    offset = u64(ip - p.code_start)
    mine = offset < u64(p.code_end - p.code_start)
    number = p.shared if mine else p.libraries
    where = u64(offset + RULE_CODE) if mine else u64(ip - p.mmap_base)
    return (
        u64(number + where * 2 + exact),
        u64(number ^ ~(where >> 12)),
        u64(p.own ^ ~(ip >> 12)),
    )


def test_the_formulas_are_the_kernel_s() -> None:
    """What `kernel_keys` repeats is there."""
    for line in (
        "u64 offset = u->at.ip - p->code_start;",
        "u64 mine = offset < p->code_end - p->code_start;",
        "u64 number = mine ? p->shared : p->libraries;",
        "u64 where = mine ? offset + RULE_CODE : u->at.ip - p->mmap_base;",
        "u64 key = number + where * 2 + u->at.exact",
        "page = number ^ ~(where >> 12);",
        "page = p->own ^ ~(u->at.ip >> 12);",
    ):
        assert line in UNWIND


@given(
    st.tuples(*[st.integers(0, ALL)] * 3),
    st.tuples(WORDS, st.integers(0, 1 << 32), WORDS),
    st.lists(WORDS, min_size=1, max_size=20),
)
def test_any_address_has_the_kernel_s_keys(
    numbers: tuple[int, int, int], where: tuple[int, int, int], addresses: list[int]
) -> None:
    start, size, base = where
    size = min(size, ALL - start)
    p = Program(*numbers, start, start + size, base)
    many = np.array(addresses, np.uint64)
    no, yes = np.zeros(len(many), np.bool_), np.ones(len(many), np.bool_)
    for exact in (0, 1):
        expected = [kernel_keys(p, ip, exact) for ip in addresses]
        assert expected == [
            (p.key(ip, exact=bool(exact)), p.page_key(ip), p.own_page_key(ip)) for ip in addresses
        ]
        kinds = np.full(len(many), exact, np.uint64)
        assert p.keys(many, kinds, no).tolist() == [each[0] for each in expected]
        assert p.keys(many, kinds, yes).tolist() == [each[1] for each in expected]


@pytest.mark.parametrize("start", [0, 5, ALL])
def test_a_program_without_code_has_none_anywhere(start: int) -> None:
    """The kernel makes both 0 where the end is below the start; as it reads them they may wrap."""
    addresses = [0, 4, 5, CODE, BASE - 1, BASE, ALL]
    many = np.array(addresses, np.uint64)
    no, kinds = np.zeros(len(many), np.bool_), np.zeros(len(many), np.uint64)
    p = Program(1, 2, 3, start, 0, BASE)
    assert not any(p.has(ip) for ip in addresses)
    assert {p.number(ip) for ip in addresses} == {3}
    assert len(p.keys(many, kinds, no)) == len(p.keys(many, kinds, ~no)) == len(many)
    normal = p._replace(code_start=0)
    keys = [normal.key(ip, exact=False) for ip in addresses]
    assert keys == [kernel_keys(normal, ip, 0)[0] for ip in addresses]
    assert keys == normal.keys(many, kinds, no).tolist()
    assert keys == [p.key(ip, exact=False) for ip in addresses]


def test_what_is_mapped_elsewhere_has_the_same_keys() -> None:
    """Of a program's code, and of libraries by the first one; its own pages are a process's own."""
    one, other = program(1), program(2, code=CODE + 0x7000, base=BASE - 0x3000)
    assert one.key(CODE + 5, exact=False) == other.key(CODE + 0x7005, exact=False)
    assert one.page_key(CODE + 5) == other.page_key(CODE + 0x7005)
    assert one.key(BASE - 99, exact=True) == other.key(BASE - 0x3000 - 99, exact=True)
    assert one.key(CODE, exact=True) != one.key(CODE, exact=False)
    assert one.own_page_key(CODE) != other.own_page_key(CODE)
    apart = program(1, libraries=9)  # its libraries lie otherwise: its code does not
    assert apart.key(CODE + 5, exact=False) == one.key(CODE + 5, exact=False)
    assert apart.key(BASE - 99, exact=True) != one.key(BASE - 99, exact=True)
    assert apart.page_key(BASE - 99) != one.page_key(BASE - 99)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(Cfa.RSP, 8), (8, 0, 1, 0)),
        (Rule(Cfa.RBP, -24, -16, -24), (-24, -16, 2, 3)),
        (Rule(Cfa.AT_RBP, -8, AT_RBP, UNKNOWN), (-8, 1, 3, 0xFF)),
        (Rule(Cfa.RSP, FAR - 1, UNKNOWN, -FAR_RBX), (FAR - 1, -1, 1, 254)),
        (Rule(Cfa.RBX, -FAR, -FAR_RBP, KEPT), (-FAR, -FAR_RBP, 9, 0)),
        (Rule(Cfa.FRAME), (0, 0, 7, 0)),
    ],
)
def test_a_rule_is_packed_as_the_kernel_s(rule: Rule, expected: tuple[int, ...]) -> None:
    """struct rule: offset and rbp are signed."""
    data = value_of(rule).to_bytes(8, "little")
    assert struct.unpack("<ihBB", data) == expected
    members = unpack(LAYOUT.structs["rule"], data)
    assert list(members) == ["offset", "rbp", "cfa", "rbx"]
    assert (members["cfa"], members["rbx"]) == expected[2:]
    assert members["offset"] == expected[0] % (1 << 32)


def test_a_rule_never_changes() -> None:
    fake = FakeKernel()
    rules = KernelRules(fake.interface())
    rules.add(5, [(1, 10), (2, 20)])
    rules.add(5, [(2, 99), (3, 30)])
    assert fake.rules == {1: 10, 2: 20, 3: 30}
    installs = fake.installs
    rules.add(5, [(1, 0), (3, 0)])
    rules.add(6, [])
    assert fake.installs == installs


def test_which_rule_the_kernel_walked_by() -> None:
    """An address's own, else that of its page, else that of the process's own page."""
    p = program()
    rules = KernelRules(FakeKernel(p).interface())
    assert rules.used(p, CODE, exact=False) is None
    rules.add(p.own, [(p.own_page_key(CODE), 3)])
    assert rules.used(p, CODE, exact=False) == 3
    assert rules.used(program(own=2), CODE, exact=False) is None
    rules.add(p.shared, [(p.page_key(CODE), 2)])
    assert rules.used(p, CODE, exact=False) == 2
    rules.add(p.shared, [(p.key(CODE, exact=False), 1)])
    assert rules.used(p, CODE, exact=False) == 1
    assert rules.used(p, CODE, exact=True) == 2
    assert rules.used(p, CODE + 1, exact=False) == 2
    assert rules.used(p, CODE + 4096, exact=False) is None
    apart = program(libraries=9)
    rules.add(9, [(apart.key(BASE - 99, exact=False), 4)])
    assert rules.used(apart, BASE - 99, exact=False) == 4
    assert rules.used(p, BASE - 99, exact=False) is None
    assert rules.used(apart, CODE, exact=False) == 1


def test_room_is_made_from_programs_that_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rules, "MOST_RULES", 20)
    running, ended = program(1, 100), program(2, 200)
    fake = FakeKernel(running, ended)
    rules = KernelRules(fake.interface())
    forgotten: list[int] = []
    rules.forget = forgotten.append
    fake.runs = {42: 1}
    for number in (100, 200, 1):
        rules.add(number, [(number + at, at) for at in range(6)])
    rules.add(300, [(300 + at, at) for at in range(3)])
    assert set(forgotten) == {200, 100}  # what ended is not enough; then the oldest goes
    assert forgotten[0] == 200
    assert fake.rules.keys() == {*range(1, 7), *range(300, 303)}
    assert rules.used(running, CODE, exact=False) is None
    rules.add(200, [(200, 1)])  # it may have rules again
    assert fake.rules[200] == 1


def test_one_program_has_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rules, "_MOST_OF_ONE", 4)
    fake = FakeKernel()
    rules = KernelRules(fake.interface())
    rules.add(1, [(at, at) for at in range(3)])
    forgotten: list[int] = []
    rules.forget = forgotten.append
    rules.add(1, [(at, at) for at in range(2, 5)])  # one too many: it begins anew
    assert fake.rules == {3: 3, 4: 4}
    assert forgotten == [1]  # what is used is learned again
    rules.add(1, [(2, 2), (9, 9)])
    assert fake.rules.keys() == {2, 3, 4, 9}
    rules.add(1, [(at, at) for at in range(20, 30)])
    assert fake.rules.keys() == {20, 21, 22, 23}
    assert rules._count == 4


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 30), st.integers(1, 9)), max_size=30),
    st.sets(st.integers(1, 6)),
)
def test_the_kernel_never_has_too_many(
    added: list[tuple[int, int, int]], running: set[int]
) -> None:
    """And it has what is known here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernel_rules, "MOST_RULES", 24)
        fake = FakeKernel()
        fake.runs = dict(enumerate(running))
        rules = KernelRules(fake.interface())
        for number, first, count in added:
            rules.add(number, [(1000 * number + first + at, at) for at in range(count)])
            known = {key: value for each in rules._rules.values() for key, value in each.items()}
            assert fake.rules == known
            assert len(known) == rules._count
            assert len(known) <= max(24, len(rules._rules[number]))


def test_a_program_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rules, "_MOST_PROGRAMS", 2)
    fake = FakeKernel(*(program(own) for own in (1, 2, 3)))
    rules = KernelRules(fake.interface())
    assert rules.program(0) is None
    assert fake.asked == []
    assert rules.program(1) == rules.program(1) == program(1)
    assert rules.program(9) is None
    assert rules.program(9) is None  # it may become known
    assert fake.asked == [1, 9, 9]
    for own in (2, 3, 1):  # only so many are kept
        assert rules.program(own) == program(own)
    assert fake.asked == [1, 9, 9, 2, 3, 1]


def test_who_runs_it() -> None:
    fake = FakeKernel()
    fake.runs = {42: 1}
    rules = KernelRules(fake.interface())
    assert rules.runs(42, program(1))
    assert not rules.runs(42, program(2))
    assert not rules.runs(43, program(1))


def test_a_program_that_is_mistaken_too_often_loses_its_rules() -> None:
    """Each process that it is wrong of gets a program of its own, once."""
    fake = FakeKernel()
    rules = KernelRules(fake.interface())
    shared = program().shared
    rules.add(shared, [(1, 10)])
    most = kernel_rules._MOST_MISTAKEN
    for own in range(1, most):
        for _ in range(3):
            rules.replace(program(own), CODE, 40 + own)
    assert fake.renewed == [(40 + own, own, True) for own in range(1, most)]
    assert fake.rules == {1: 10}
    rules.replace(program(99), CODE, 99)
    assert fake.rules == {}
    rules.add(shared, [(1, 11)])
    assert fake.rules == {1: 11}
    assert fake.separate == []


def test_where_a_library_was_another_one_libraries_are_separate() -> None:
    """The rules for the program's own code hold, and stay."""
    fake = FakeKernel()
    rules = KernelRules(fake.interface())
    rules.add(program().shared, [(1, 10)])
    owns = range(1, kernel_rules._MOST_MISTAKEN + 4)
    for own in owns:
        rules.replace(program(own), BASE - 99, 40 + own)
    assert fake.renewed == [(40 + own, own, False) for own in owns]
    assert fake.separate == [program().shared]  # once
    assert fake.rules == {1: 10}
    rules.separate(program(99, 77, libraries=9))  # they are already
    assert fake.separate == [program().shared]
