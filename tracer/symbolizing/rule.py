"""Unwind rules: from a frame's registers to its caller's (tracer.symbolizing.unwind reads them)."""

from dataclasses import dataclass
from enum import IntEnum

RBX, RBP, RSP, RIP = 3, 6, 7, 16  # DWARF numbers of x86-64's registers (psABI, figure 3.36)

KEPT = 0  # Rule.rbp, Rule.rbx: the register is the caller's still
AT_RBP = 1  # Rule.rbp: the caller's is where rbp points to, whatever the CFA is
UNKNOWN = -1  # Rule.rbp, Rule.rbx: not known; a caller that needs it cannot be unwound

# Limits: the kernel keeps offsets in 32 and 16 bits; what compilers make is far below. That of rbx
# is in 8 bits, in words, of which two values are KEPT and UNKNOWN: down to this inclusive.
FAR, FAR_RBP = 1 << 31, 1 << 15
FAR_RBX = 8 * 254


class Cfa(IntEnum):
    """How the canonical frame address (CFA) is computed; the return address lies below it.

    The CFA is the stack pointer's value before the call (DWARF 4, 6.4.1). The numbers are those of
    the kernel's rules, too (bpf/shared.h: RULE_…).
    """

    NONE = 0  # in a way that is none of these
    RSP = 1  # rsp + offset
    RBP = 2  # rbp + offset
    AT_RBP = 3  # what lies at rbp + offset: a function that aligns its stack
    PLT = 4  # rsp + 8, and 8 more from byte `offset` of a 16-byte entry on: the index is pushed
    OUTERMOST = 5  # there is no caller
    SIGNAL = 6  # a signal frame: the interrupted registers are in the ucontext at rsp
    FRAME = 7  # no unwind information: by frame pointer, rbp + 16
    NO_CALL = 8  # no return address: no call is before it
    RBX = 9  # rbx + offset: the loader's stubs of lazy binding, which align their stack
    AT_RSP = 10  # what lies at rsp + offset, plus 8: OpenSSL's assembly keeps the old rsp there


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule at one address.

    `rbp`, `rbx`: where the caller's lie, as offsets from the CFA. SIGNAL and FRAME imply where
    they are (of FRAME's rbx nothing is known), and PLT that they are kept.
    """

    cfa: Cfa
    offset: int = 0
    rbp: int = KEPT
    rbx: int = KEPT


@dataclass(frozen=True, slots=True)
class CodeRule:
    """What a file says of the code at one offset."""

    rule: Rule  # FRAME where no entry of .eh_frame covers it, and no other rule is known
    after_call: bool  # a call ends behind that byte: what follows may be a return address
    bare_page: bool  # FRAME holds for all of its page: no entry covers any byte


BARE = Rule(Cfa.FRAME)
ENTERED = Rule(Cfa.RSP, 8)  # where a function begins: it has pushed nothing yet
NO_RULE = Rule(Cfa.NONE)
