"""Unwinds copies of stacks, as bpf/unwind.bpf.h walks the stacks themselves.

The kernel sends a copy where it lacks a rule. It holds the target's memory: it stays in this
process, until it is unwound.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from tracer.common.types import U64
from tracer.symbolizing.rule import AT_RBP, KEPT, UNKNOWN, Cfa, CodeRule, Rule
from tracer.wire.shared import COPIED_BELOW

_WORD = struct.Struct("<Q")
_ALL = (1 << 64) - 1
_UNKNOWN_REGISTER = 1  # bpf/unwind.h
NO_CALL = Rule(Cfa.NO_CALL)  # of an address that is data
# Bytes from a signal frame's rsp to rip, rsp, rbp and rbx of its ucontext (asm/sigcontext.h).
_INTERRUPTED = 168, 160, 120, 128


class End(IntEnum):
    """Where a walk ended (bpf/shared.h: END_…)."""

    NOT_WALKED = 0
    OUTERMOST = 1
    NO_RULE = 2
    UNREADABLE = 3
    NO_CALLER = 4
    LIMIT = 5
    NO_FRAME = 6
    # What only user space finds out:
    NO_COPY = 101  # the copy was dropped
    SHORT_COPY = 102  # it ends before the caller's frame
    REPLACED = 103  # the code that the rule was for


@dataclass(frozen=True, slots=True)
class Copy:
    """A frame's registers and the bytes around its stack pointer (struct stack_copy)."""

    ip: int
    sp: int
    fp: int
    bx: int
    exact: bool  # ip is the faulting instruction, no return address
    data: bytes  # from COPIED_BELOW bytes below sp on

    def words(self) -> U64:
        """What lies on it."""
        return np.frombuffer(self.data[: len(self.data) // 8 * 8], "<u8")


class Walked(NamedTuple):
    """Frames as far as they could be followed: (address, whether it is no return address)."""

    frames: list[tuple[int, bool]]
    end: End  # NO_RULE: one is not known yet
    sps: list[int]  # the stack pointer of each frame


def rule_of(code: CodeRule, *, exact: bool) -> Rule:
    """The rule of a frame; where no call precedes its address, that is data."""
    rule = code.rule
    if exact or code.after_call or rule.cfa in (Cfa.OUTERMOST, Cfa.SIGNAL):
        return rule
    return NO_CALL


def walk(copy: Copy, rule_at: Callable[[int, bool], Rule | None], most: int) -> Walked:
    """Unwind a copy, up to `most` frames. `rule_at(ip, exact)`: None where it is not known yet."""
    at = _Frame(copy.ip, copy.sp, copy.fp, copy.bx, copy.exact)
    frames: list[tuple[int, bool]] = []
    sps: list[int] = []
    while len(frames) < most:
        rule = rule_at(at.ip, at.exact)
        if rule is NO_CALL:
            return Walked(frames, End.NO_CALLER, sps)
        frames.append((at.ip, at.exact))
        sps.append(at.sp)
        if rule is None:
            return Walked(frames, End.NO_RULE, sps)
        try:
            caller = _caller(copy, rule, at)
        except _BelowError:
            return Walked(frames, End.UNREADABLE, sps)
        except _BeyondError:
            return Walked(frames, End.SHORT_COPY, sps)
        if isinstance(caller, End):
            return Walked(frames, caller, sps)
        at = caller
    return Walked(frames, End.LIMIT, sps)


class _Frame(NamedTuple):
    """A frame's registers, as bpf/unwind.h: struct frame."""

    ip: int
    sp: int
    fp: int
    bx: int
    exact: bool


def _caller(copy: Copy, rule: Rule, at: _Frame) -> _Frame | End:
    """The caller's registers, or why there is none, as bpf/unwind.bpf.h: step()."""
    ip, sp, fp, bx, _ = at
    rbp, rbx = rule.rbp, rule.rbx
    match rule.cfa:
        case Cfa.RSP:
            cfa = sp + rule.offset
        case Cfa.RBP:
            cfa = fp + rule.offset
        case Cfa.RBX:
            cfa = bx + rule.offset
        case Cfa.AT_RBP:
            cfa = _word(copy, fp + rule.offset)
        case Cfa.AT_RSP:
            cfa = _word(copy, sp + rule.offset) + 8
        case Cfa.PLT:
            cfa = sp + (16 if ip & 15 >= rule.offset else 8)
        case Cfa.FRAME:
            if not fp:
                return End.NO_FRAME
            cfa, rbp, rbx = (fp + 16) & _ALL, -16, UNKNOWN
            if cfa <= sp:
                return End.NO_CALLER
        case Cfa.SIGNAL:
            ip, sp, fp, bx = (_word(copy, sp + away) for away in _INTERRUPTED)
            return _Frame(ip, sp, fp, bx, exact=True)
        case Cfa.OUTERMOST:
            return End.OUTERMOST
        case _:
            return End.NO_CALLER
    caller = _word(copy, cfa - 8)
    if rbp == UNKNOWN:
        fp = _UNKNOWN_REGISTER
    elif rbp != KEPT:
        fp = _word(copy, fp if rbp == AT_RBP else cfa + rbp)
    if rbx == UNKNOWN:
        bx = _UNKNOWN_REGISTER
    elif rbx != KEPT:
        bx = _word(copy, cfa + rbx)
    return _Frame(caller, cfa & _ALL, fp, bx, exact=False)


class _BelowError(IndexError):
    """Below the copy: no caller's frame is there."""


class _BeyondError(IndexError):
    """Beyond the copy's end."""


def _word(copy: Copy, address: int) -> int:
    at = address - copy.sp + COPIED_BELOW
    if at < 0:
        raise _BelowError
    if at > len(copy.data) - 8:
        raise _BeyondError
    return int(_WORD.unpack_from(copy.data, at)[0])
