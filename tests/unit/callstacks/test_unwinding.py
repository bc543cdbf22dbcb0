"""Copies of stacks unwound by rules, as the kernel walks the stacks themselves."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.callstacks.unwinding import NO_CALL, Copy, End, rule_of, walk
from tracer.symbolizing.rule import AT_RBP, KEPT, UNKNOWN, Cfa, CodeRule, Rule
from tracer.wire.shared import COPIED_BELOW, STACK_USER

SP, FP, BX = 0x7FFC_0000_1000, 0x7FFC_0000_1020, 0x7FFC_0000_1040
F, B = SP + 0x60, SP + 0x70  # the caller's registers, where they were saved
IP, CALLER, OUTER = 0x401000, 0x402000, 0x403000
ALL = (1 << 64) - 1
END = Rule(Cfa.OUTERMOST)


def copied(words: dict[int, int], size: int = 0x100, **registers: int) -> Copy:
    """A copy with these words, at their distances from its stack pointer."""
    data = bytearray(COPIED_BELOW + size)
    for away, word in words.items():
        struct.pack_into("<Q", data, COPIED_BELOW + away, word)
    known = {"ip": IP, "sp": SP, "fp": FP, "bx": BX, **registers}
    return Copy(**known, exact=True, data=bytes(data))


def walked(
    copy: Copy, rules: dict[int, Rule], most: int = STACK_USER
) -> tuple[list[tuple[int, bool]], End]:
    frames, end, sps = walk(copy, lambda ip, exact: rules.get(ip, NO_CALL), most)
    assert len(sps) == len(frames)
    return frames, end


# A rule of the first frame, where the return address lies, and what the caller's rbp and rbx are.
@pytest.mark.parametrize(
    ("rule", "words", "expected"),
    [
        (Rule(Cfa.RSP, 8), {0: CALLER}, (8, FP, BX)),
        (Rule(Cfa.RSP, 0x30, -16, -24), {0x28: CALLER, 0x20: F, 0x18: B}, (0x30, F, B)),
        (Rule(Cfa.RSP, 8, UNKNOWN, UNKNOWN), {0: CALLER}, (8, 1, 1)),
        (Rule(Cfa.RBP, 16, -16), {0x28: CALLER, 0x20: F}, (0x30, F, BX)),
        (Rule(Cfa.RBX, 16), {0x48: CALLER}, (0x50, FP, BX)),
        (Rule(Cfa.AT_RBP, -8, AT_RBP), {0x18: SP + 0x50, 0x48: CALLER, 0x20: F}, (0x50, F, BX)),
        (Rule(Cfa.AT_RSP, 0x10), {0x10: SP + 0x48, 0x48: CALLER}, (0x50, FP, BX)),
        (Rule(Cfa.FRAME), {0x28: CALLER, 0x20: F}, (0x30, F, 1)),
        # Below the stack pointer: what a function has restored from there, before it returns
        (Rule(Cfa.RSP, 8, -24, -32), {0: CALLER, -16: F, -24: B}, (8, F, B)),
    ],
)  # fmt: skip
def test_each_kind_of_rule(
    rule: Rule, words: dict[int, int], expected: tuple[int, int, int]
) -> None:
    away, fp, bx = expected
    assert walked(copied(words), {IP: rule, CALLER: END}) == (
        [(IP, True), (CALLER, False)],
        End.OUTERMOST,
    )
    # What the caller's registers are, its own rules show, each by a word of its own.
    for probe, at in (
        (Rule(Cfa.RBP, 8), fp),
        (Rule(Cfa.RBX, 8), bx),
        (Rule(Cfa.RSP, 8), SP + away),
    ):
        copy = copied(words, 0x200)
        if SP <= at < SP + 0x1F8 and at - SP not in words:
            copy = copied({**words, at - SP: OUTER}, 0x200)
            found = walked(copy, {IP: rule, CALLER: probe, OUTER: END})
            assert found == ([(IP, True), (CALLER, False), (OUTER, False)], End.OUTERMOST)
        elif at < SP:
            found = walked(copy, {IP: rule, CALLER: probe})
            assert found == ([(IP, True), (CALLER, False)], End.UNREADABLE)


@pytest.mark.parametrize(("byte", "at"), [(0, 0), (10, 0), (11, 8), (15, 8)])
def test_an_entry_of_the_plt_pushes_on_its_way(byte: int, at: int) -> None:
    """From that byte of its sixteen on, there is one word more."""
    copy = copied({at: CALLER}, ip=IP + byte)
    frames = [(IP + byte, True), (CALLER, False)]
    assert walked(copy, {IP + byte: Rule(Cfa.PLT, 11), CALLER: END}) == (frames, End.OUTERMOST)


def test_each_frame_has_its_stack_pointer() -> None:
    copy = copied({0x28: CALLER, 0x20: F, 0x58: OUTER})
    rules = {IP: Rule(Cfa.RSP, 0x30), CALLER: Rule(Cfa.RSP, 0x30), OUTER: END}
    found = walk(copy, lambda ip, exact: rules.get(ip, NO_CALL), STACK_USER)
    assert found.sps == [SP, SP + 0x30, SP + 0x60]
    assert walk(copy, lambda ip, exact: NO_CALL, STACK_USER).sps == []


def test_a_signal_frame_has_the_interrupted_registers() -> None:
    """And the interrupted instruction is no return address."""
    words = {0: CALLER, 8 + 168: OUTER, 8 + 160: SP + 0xC0, 8 + 120: 0, 8 + 128: SP + 0xD0}
    seen: list[tuple[int, bool]] = []

    def rule_at(ip: int, exact: bool) -> Rule | None:
        seen.append((ip, exact))
        return {IP: Rule(Cfa.RSP, 8), CALLER: Rule(Cfa.SIGNAL), OUTER: Rule(Cfa.FRAME)}[ip]

    frames, end, _ = walk(copied(words), rule_at, STACK_USER)
    assert frames == seen == [(IP, True), (CALLER, False), (OUTER, True)]
    assert end == End.NO_FRAME
    interrupted = {IP: Rule(Cfa.RSP, 8), CALLER: Rule(Cfa.SIGNAL), OUTER: Rule(Cfa.RSP, 8)}
    words[0xC0] = 5
    assert walked(copied(words), {**interrupted, 5: END})[0][-1] == (5, False)
    words[0xD0] = 6
    interrupted[OUTER] = Rule(Cfa.RBX, 8)
    assert walked(copied(words), {**interrupted, 6: END})[0][-1] == (6, False)


@pytest.mark.parametrize(
    ("rule", "registers", "end"),
    [
        (Rule(Cfa.OUTERMOST), {}, End.OUTERMOST),
        (Rule(Cfa.NONE), {}, End.NO_CALLER),
        (Rule(Cfa.FRAME), {"fp": 0}, End.NO_FRAME),
        (Rule(Cfa.FRAME), {"fp": SP - 16}, End.NO_CALLER),  # it leads down
        (Rule(Cfa.FRAME), {"fp": 1}, End.NO_CALLER),
        (Rule(Cfa.FRAME), {"fp": ALL}, End.NO_CALLER),
        (Rule(Cfa.RBP, 16), {"fp": 1}, End.UNREADABLE),
        (Rule(Cfa.RBX, 16), {"bx": 1}, End.UNREADABLE),
        (Rule(Cfa.RSP, -COPIED_BELOW), {}, End.UNREADABLE),
        (Rule(Cfa.RSP, -1 << 31), {}, End.UNREADABLE),
        (Rule(Cfa.RSP, 0x108), {}, End.SHORT_COPY),
        (Rule(Cfa.RSP, (1 << 31) - 1), {}, End.SHORT_COPY),
        (Rule(Cfa.RBP, 16), {"fp": ALL}, End.SHORT_COPY),
        (Rule(Cfa.SIGNAL), {"sp": SP}, End.OUTERMOST),
        (Rule(Cfa.AT_RBP, -8), {"fp": SP - COPIED_BELOW}, End.UNREADABLE),
        (Rule(Cfa.AT_RSP, 0x100), {}, End.SHORT_COPY),
    ],
)
def test_where_a_walk_ends(rule: Rule, registers: dict[str, int], end: End) -> None:
    frames, found = walked(copied({}, **registers), {IP: rule, 0: END})
    assert found == end
    assert frames[0] == (IP, True)
    assert len(frames) == 1 + (rule.cfa == Cfa.SIGNAL)


def test_the_last_word_of_a_copy_and_the_first() -> None:
    last = copied({0xF8: CALLER})
    assert walked(last, {IP: Rule(Cfa.RSP, 0x100), CALLER: END})[0][1:] == [(CALLER, False)]
    first = copied({-COPIED_BELOW: CALLER})
    rules = {IP: Rule(Cfa.RSP, 8 - COPIED_BELOW), CALLER: END}
    assert walked(first, rules)[0][1:] == [(CALLER, False)]
    assert walked(copied({}, size=0xF7), {IP: Rule(Cfa.RSP, 0xF8)})[1] == End.SHORT_COPY


def test_a_signal_frame_that_is_cut_off() -> None:
    assert walked(copied({}, size=168), {IP: Rule(Cfa.SIGNAL)}) == ([(IP, True)], End.SHORT_COPY)


def test_data_is_no_frame() -> None:
    """An address before which nothing is called ends the walk, and is not in it."""
    rules = {IP: Rule(Cfa.RSP, 8), CALLER: NO_CALL}
    assert walked(copied({0: CALLER}), rules) == ([(IP, True)], End.NO_CALLER)
    assert walked(copied({}), {IP: NO_CALL}) == ([], End.NO_CALLER)


def test_a_rule_that_is_not_known_yet() -> None:
    known = {IP: Rule(Cfa.RSP, 8)}
    frames, end, _ = walk(copied({0: CALLER}), lambda ip, exact: known.get(ip), STACK_USER)
    assert (frames, end) == ([(IP, True), (CALLER, False)], End.NO_RULE)


@pytest.mark.parametrize("most", [1, 2, 5, STACK_USER])
def test_no_more_frames_than_asked_for(most: int) -> None:
    """A frame that is its own caller has as many as there may be."""
    copy = copied({8 * at: IP for at in range(STACK_USER + 1)}, 8 * STACK_USER + 8)
    frames, end = walked(copy, {IP: Rule(Cfa.RSP, 8)}, most)
    assert (len(frames), end) == (most, End.LIMIT)


@pytest.mark.parametrize(
    ("cfa", "exact", "after_call", "is_call"),
    [
        (Cfa.RSP, True, False, True),
        (Cfa.RSP, False, True, True),
        (Cfa.RSP, False, False, False),
        (Cfa.FRAME, False, False, False),
        (Cfa.SIGNAL, False, False, True),  # its return address was never called
        (Cfa.OUTERMOST, False, False, True),
    ],
)
def test_a_return_address_is_behind_a_call(
    cfa: Cfa, exact: bool, after_call: bool, is_call: bool
) -> None:
    found = rule_of(CodeRule(Rule(cfa), after_call, bare_page=False), exact=exact)
    assert found is NO_CALL if not is_call else found == Rule(cfa)


WORDS = st.one_of(
    st.integers(0, ALL),
    st.integers(SP - COPIED_BELOW - 16, SP + 0x200),
    st.integers(IP, IP + 3),
)
OFFSETS = st.one_of(st.integers(-200, 300), st.integers(-1 << 31, (1 << 31) - 1))
RULES = st.one_of(
    st.none(),
    st.just(NO_CALL),
    st.builds(
        Rule,
        st.sampled_from(Cfa),
        OFFSETS,
        st.one_of(st.sampled_from((KEPT, AT_RBP, UNKNOWN)), st.integers(-300, 300)),
        st.one_of(st.sampled_from((KEPT, UNKNOWN)), st.integers(-254, 0).map(lambda n: 8 * n)),
    ),
)


@given(
    st.one_of(
        st.binary(max_size=400),
        st.lists(WORDS, max_size=60).map(lambda words: struct.pack(f"<{len(words)}Q", *words)),
    ),
    st.tuples(WORDS, WORDS, WORDS, WORDS),
    st.lists(RULES, min_size=4, max_size=4),
    st.integers(1, STACK_USER),
)
def test_anything_can_be_unwound(
    data: bytes, registers: tuple[int, int, int, int], rules: list[Rule | None], most: int
) -> None:
    """It ends in time, and each address is a register or lies on the copy."""
    copy = Copy(*registers, exact=True, data=data)
    frames, end, sps = walk(copy, lambda ip, exact: rules[ip & 3], most)
    assert len(sps) == len(frames)
    assert isinstance(end, End)
    assert len(frames) <= most
    assert (end == End.LIMIT) <= (len(frames) == most)
    there = {int.from_bytes(data[at : at + 8], "little") for at in range(len(data) - 7)}
    assert {ip for ip, _ in frames} <= {copy.ip, *there}
    assert len(copy.words()) == len(data) // 8
