"""Rules learned of a file's code hold wherever it is mapped."""

import numpy as np
import pytest

from tests.unit.rules_data import BASE, CODE, program
from tracer.callstacks import file_rules
from tracer.callstacks.file_rules import FileRules
from tracer.callstacks.kernel_rules import value_of
from tracer.callstacks.mapped_code import MappedCode
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule

RSP, BARE = Rule(Cfa.RSP, 8), Rule(Cfa.FRAME)


def mapping(
    start: int, size: int, name: str = "/lib/x.so", offset: int = 0, file: int = 1
) -> Mapping:
    return Mapping(start, start + size, "r-xp", offset, 8, 1, name, file)


def learned(rules: FileRules, *offsets: int, exact: bool = False, rule: Rule = RSP) -> None:
    for offset in offsets:
        code = CodeRule(rule, after_call=True, bare_page=rule == BARE)
        rules.add(1, offset, exact=exact, rule=rule, code=code)


def test_they_are_those_of_its_addresses() -> None:
    rules, mine = FileRules(), program()
    learned(rules, 0x2010)
    learned(rules, 0x2020, exact=True)
    assert rules.of(mine, mapping(BASE - 0x9000, 0x1000, offset=0x2000)) == [
        (mine.key(BASE - 0x9000 + 0x10, exact=False), value_of(RSP)),
        (mine.key(BASE - 0x9000 + 0x20, exact=True), value_of(RSP)),
    ]
    # In the program's own code they are relative to that.
    found = rules.of(mine, mapping(CODE, 0x4000))
    assert found[0] == (mine.key(CODE + 0x2010, exact=False), value_of(RSP))
    moved = program(2, code=CODE + 0x5000)
    assert rules.of(moved, mapping(CODE + 0x5000, 0x4000)) == found


def test_there_are_none_outside_a_mapping() -> None:
    rules, mine = FileRules(), program()
    learned(rules, 0x1FFF, 0x2000, 0x2FFF, 0x3000)
    found = rules.of(mine, mapping(BASE - 0x9000, 0x1000, offset=0x2000))
    expected = [mine.key(BASE - 0x9000 + at, exact=False) for at in (0, 0xFFF)]
    assert [key for key, _ in found] == expected
    assert rules.of(mine, mapping(BASE - 0x9000, 0x1000, offset=0x8000)) == []
    assert rules.of(mine, mapping(BASE - 0x9000, 0x1000, offset=0x2000, file=2)) == []
    assert rules.of(mine, mapping(BASE - 0x9000, 0x1000, offset=0x2000, file=0)) == []


def test_a_page_without_unwind_information_is_one() -> None:
    rules, mine = FileRules(), program()
    learned(rules, 0x2010, rule=BARE)
    at = BASE - 0x9000
    found = dict(rules.of(mine, mapping(at, 0x1000, offset=0x2000)))
    assert found == {
        mine.key(at + 0x10, exact=False): value_of(BARE),
        mine.page_key(at): value_of(BARE),
    }
    # Mapped from within that page on, it is no whole one.
    assert rules.of(mine, mapping(at, 0x1000, offset=0x3000)) == []


def test_what_is_learned_later_comes_in_addition() -> None:
    rules, mine = FileRules(), program()
    learned(rules, 0x10)
    assert len(rules.of(mine, mapping(CODE, 0x1000))) == 1
    learned(rules, 0x10, 0x20)
    learned(rules, 0x10, rule=BARE)  # the first one stays
    found = rules.of(mine, mapping(CODE, 0x1000))
    assert dict(found)[mine.key(CODE + 0x10, exact=False)] == value_of(RSP)
    assert len(found) == 3  # the page, too


def test_no_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rules, "_MOST_OF_ONE", 3)
    monkeypatch.setattr(file_rules, "_MOST_FILES", 1)
    rules = FileRules()
    learned(rules, *range(10))
    rules.add(2, 0, exact=False, rule=RSP, code=CodeRule(RSP, True, False))
    assert len(rules.of(program(), mapping(CODE, 0x1000))) == 3
    assert rules.of(program(), mapping(CODE, 0x1000, file=2)) == []


# -- rules of earlier runs ---------------------------------------------------------------------

KEY = 0x10, file_rules.RETURN
PAGE_KEY = 0x2000, file_rules.PAGE


def stored(*known: tuple[tuple[int, int], Rule]) -> FileRules:
    """What is known where these are stored of the file."""
    rules, asked = FileRules(), list[int]()

    def load(file: int) -> file_rules.Known:
        assert file not in asked  # once
        asked.append(file)
        return {key: value_of(rule) for key, rule in known}

    rules.load = load
    return rules


def test_a_file_begins_with_what_is_stored_of_it() -> None:
    rules, mine = stored((KEY, RSP)), program()
    first = [(mine.key(CODE + 0x10, exact=False), value_of(RSP))]
    assert rules.of(mine, mapping(CODE, 0x1000)) == first
    assert rules.of(mine, mapping(CODE, 0x1000, file=0)) == []
    learned(rules, 0x10, 0x20)
    assert len(rules.of(mine, mapping(CODE, 0x1000))) == 2
    ((file, table),) = rules.tables()
    assert (file, table.wrong) == (1, False)
    assert table.stored.keys() < table.learned.keys()


@pytest.mark.parametrize("how", ["learned", "compared"])
def test_where_the_file_says_otherwise_all_that_was_stored_is_wrong(how: str) -> None:
    rules, mine = stored((KEY, RSP), ((0x20, file_rules.EXACT), RSP)), program()
    assert len(rules.of(mine, mapping(CODE, 0x1000))) == 2
    rules.compare(1, 0x10, exact=False, rule=RSP)
    rules.compare(1, 0x30, exact=False, rule=BARE)
    rules.compare(2, 0x10, exact=False, rule=BARE)
    assert len(rules.of(mine, mapping(CODE, 0x1000))) == 2
    if how == "learned":
        learned(rules, 0x10, rule=Rule(Cfa.NONE))
    else:
        rules.compare(1, 0x10, exact=False, rule=Rule(Cfa.NONE))
    found = rules.of(mine, mapping(CODE, 0x1000))
    assert [value for _, value in found] == [value_of(Rule(Cfa.NONE))] * (how == "learned")
    ((_, table),) = rules.tables()
    assert table.wrong


@pytest.mark.parametrize(
    ("rule", "wrong"), [(RSP, True), (BARE, False), (Rule(Cfa.NO_CALL), False)]
)
def test_a_page_with_unwind_information_is_none_without(rule: Rule, wrong: bool) -> None:
    """But an address in it may be data."""
    rules = stored((PAGE_KEY, BARE))
    rules.of(program(), mapping(CODE, 0x1000))
    rules.compare(1, 0x2345, exact=False, rule=rule)
    ((_, table),) = rules.tables()
    assert table.wrong == wrong


# -- the mappings of a program's processes -----------------------------------------------------

LIB = BASE - 0x20_0000
VDSO_AT = BASE + 0x7_0000_0000
LISTED = [
    mapping(CODE, 0x1000, "/bin/x"),
    mapping(LIB, 0x3000, file=2),
    mapping(LIB + 0x5000, 0x1000, file=3),
    mapping(VDSO_AT, 0x2000, "[vdso]", file=0),
]


def test_which_mapping_has_an_address() -> None:
    code = MappedCode(program(), LISTED, 5)
    addresses = [CODE - 1, CODE, CODE + 0xFFF, CODE + 0x1000, LIB + 0x3000, LIB + 0x5000, VDSO_AT]
    expected = [-1, 0, 0, -1, -1, 2, 3]
    assert [code.at(address) for address in addresses] == expected
    assert code.at(VDSO_AT + 0x2000) == code.at(1 << 63) == -1
    words, which = code.among(np.array([*addresses, CODE, 0, (1 << 64) - 1], np.uint64))
    assert dict(zip(words.tolist(), which.tolist(), strict=True)) == {
        address: at for address, at in zip(addresses, expected, strict=True) if at >= 0
    }
    assert len(words) == 4  # each once


def test_without_mappings_or_words() -> None:
    code = MappedCode(program(), [], 5)
    assert code.at(CODE) == -1
    assert len(code.among(np.array([CODE], np.uint64))[0]) == 0
    assert len(MappedCode(program(), LISTED, 5).among(np.empty(0, np.uint64))[0]) == 0


def test_of_another_process_they_are_where_it_has_them() -> None:
    """A program that is mapped at random, and its libraries by themselves; but not the vDSO."""
    code = MappedCode(program(1), LISTED, 5)
    moved = code.of(program(2, code=CODE + 0x7000, base=BASE - 0x10_0000))
    assert [(each.name, each.start, each.end) for each in moved.mappings] == [
        ("/bin/x", CODE + 0x7000, CODE + 0x8000),
        ("/lib/x.so", LIB - 0x10_0000, LIB - 0x10_0000 + 0x3000),
        ("/lib/x.so", LIB - 0x10_0000 + 0x5000, LIB - 0x10_0000 + 0x6000),
    ]
    assert moved.at(CODE + 0x7001) == 0
    assert moved.at(VDSO_AT) == -1
    assert moved.read_ns == 5


def test_of_a_fork_they_are_the_same() -> None:
    code = MappedCode(program(1), LISTED, 5)
    assert code.of(program(1)) is code
    assert code.of(program(2)).mappings == LISTED  # without randomization


def test_what_would_lie_below_zero_is_left_out() -> None:
    low = [mapping(0x10_0000, 0x1000, file=2), mapping(LIB, 0x1000, file=2)]
    moved = MappedCode(program(1), low, 5).of(program(2, base=BASE - 0x20_0000))
    assert [each.start for each in moved.mappings] == [LIB - 0x20_0000]


def test_what_is_as_large_as_a_huge_page_may_be_aligned() -> None:
    """By all of a file's mappings; not the executable's own, nor memory without a file."""
    code, huge = MappedCode(program(), LISTED, 5), 1 << 21
    parts = [mapping(LIB, 0x1000), mapping(LIB + huge - 0x1000, 0x1000)]
    assert code.is_aligned(parts)
    assert code.is_aligned([mapping(LIB, huge)])
    assert not code.is_aligned([])
    assert not code.is_aligned([mapping(LIB, huge - 0x1000)])
    assert not code.is_aligned([parts[0], parts[1]._replace(inode=2)])
    assert not code.is_aligned([each._replace(inode=0) for each in parts])
    assert not code.is_aligned([mapping(CODE, huge)])


def test_whose_mappings_they_are_since_when() -> None:
    """Only of the process that was read, and its forks, they say what is not there."""
    mine, other = program(1), program(2, base=BASE - 0x1000)
    code = MappedCode(mine, LISTED, 5)
    assert code.is_since(mine, 4)
    assert not code.is_since(mine, 5)
    assert not code.is_since(other, 4)
    moved = code.of(other)
    assert not moved.is_since(other, 4)
    assert moved.is_since(mine, 4)
