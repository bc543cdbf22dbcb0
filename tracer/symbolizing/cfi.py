"""The entries of an .eh_frame, decoded: what call frame instructions say of an address.

The file is another user's: what is malformed raises ValueError, LookupError or struct.error.
Each byte is followed once at most, so the time that an entry takes is bounded by its length.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tracer.symbolizing.rule import (
    AT_RBP,
    FAR,
    FAR_RBP,
    FAR_RBX,
    KEPT,
    NO_RULE,
    RBP,
    RBX,
    RIP,
    RSP,
    UNKNOWN,
    Cfa,
    Rule,
)

ALL = (1 << 64) - 1  # addresses wrap as the processor's do
_DEEPEST = 64  # states that are remembered at once

# Pointer encodings (LSB, 10.5.1)
_PCREL = 0x10
POINTERS = {
    kind: struct.Struct("<" + letter)
    for kind, letter in {0: "Q", 2: "H", 3: "I", 4: "Q", 0x0A: "h", 0x0B: "i", 0x0C: "q"}.items()
}

# The CFA in a PLT's entry: rsp + 8 + ((rip & 15) >= n) * 8 (elfxx-x86.c of binutils; n is 11, and
# 10 for CET). DW_OP breg7 8, breg16 0, lit15, and, lit n, ge, lit3, shl, plus.
_PLT = {
    bytes((0x77, 8, 0x80, 0, 0x3F, 0x1A, 0x30 + n, 0x2A, 0x33, 0x24, 0x22)): n for n in (10, 11)
}
_BREG_RBP, _BREG_RSP, _DEREF = 0x70 + RBP, 0x70 + RSP, 0x06
_AT_RBP = bytes((_BREG_RBP, 0))
# The CFA by a register, an offset, and what follows these. OpenSSL's assembly has stored the rsp
# that the function was entered with; the return address lies there, so that the CFA is 8 above.
_AT = {
    _BREG_RBP: (Cfa.AT_RBP, bytes((_DEREF,))),
    _BREG_RSP: (Cfa.AT_RSP, bytes((_DEREF, 0x23, 8))),
}
_BY_REGISTER = {RSP: Cfa.RSP, RBP: Cfa.RBP, RBX: Cfa.RBX}
# The CFA in a signal's trampoline: the interrupted rsp, of the ucontext (sigaction.c of glibc).
_SIGNAL = bytes((0x77, 0xA0, 0x01, _DEREF))
_RETURN_AT = -8  # from the CFA: where a call puts the return address

_WORD = struct.Struct("<I")
_NEVER = 1 << 200  # behind all addresses that can be advanced to
MALFORMED = (ValueError, LookupError, ArithmeticError, struct.error, OSError)


_Plain = tuple[int, int, bytes, int, int, bool, bool]  # a State, of which many are made


class State(NamedTuple):
    """A row of the table that call frame instructions describe, as far as rules need it."""

    register: int = -1  # of the CFA; -1: by `expression`
    offset: int = 0
    expression: bytes = b""
    rbp: int = KEPT
    rbx: int = KEPT
    outermost: bool = False  # the return address is undefined
    usual: bool = True  # the return address is where a call puts it

    def rule(self, *, signal: bool) -> Rule:
        """As the kernel can follow it."""
        if self.outermost:
            return Rule(Cfa.OUTERMOST)
        if self.register < 0:
            return self._by_expression(signal=signal)
        if not self.usual or not -FAR <= self.offset < FAR:
            return NO_RULE
        cfa = _BY_REGISTER.get(self.register)
        return NO_RULE if cfa is None else Rule(cfa, self.offset, self.rbp, self.rbx)

    def _by_expression(self, *, signal: bool) -> Rule:
        if signal:
            return Rule(Cfa.SIGNAL) if self.expression == _SIGNAL else NO_RULE
        if not self.usual:
            return NO_RULE
        if self.expression in _PLT:
            return Rule(Cfa.PLT, _PLT[self.expression])
        if self.expression and self.expression[0] in _AT:
            cfa, rest = _AT[self.expression[0]]
            offset, at = sleb(self.expression, 1)
            if self.expression[at:] == rest and -FAR <= offset < FAR:
                return Rule(cfa, offset, self.rbp, self.rbx)
        return NO_RULE


class Cie(NamedTuple):
    """A common information entry: what functions share."""

    code_unit: int
    data_unit: int
    encoding: int  # of its functions' pointers
    augmented: bool
    signal: bool  # its functions are signal frames
    initial: State


class Fde(NamedTuple):
    """A frame description entry: a function's."""

    cie: Cie
    start: int
    length: int
    body: bytes
    at: int  # where the instructions begin in it

    def covers(self, address: int) -> bool:
        return self.start <= address < self.start + self.length


class Rules:
    """The rules of a function; it is followed once where addresses are asked for in order."""

    def __init__(self, fde: Fde) -> None:
        self.fde = fde
        self._rows = _rows(fde.cie, fde.body, fde.at, fde.start)
        self._start, self._end = fde.start, fde.start  # of the row that was followed last
        self._rule = NO_RULE

    def passed(self, address: int) -> bool:
        """Whether an address is before the row that was followed last."""
        return address < self._start

    def at(self, address: int) -> Rule:
        """The rule at an address that the function covers, and that was not passed."""
        if address < self._end:
            return self._rule
        self._rule = NO_RULE
        state: _Plain | None = None
        while address >= self._end:
            self._start = self._end
            try:
                self._end, state = next(self._rows)
            except MALFORMED:  # there is no rule from here on
                self._end, state = _NEVER, None
        if state is not None:
            self._rule = State(*state).rule(signal=self.fde.cie.signal)
        return self._rule


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("an unterminated number")


def sleb(data: bytes, at: int) -> tuple[int, int]:
    """The same of a signed number."""
    value, end = uleb(data, at)
    bits = 7 * (end - at)
    return (value - (1 << bits) if value >> (bits - 1) & 1 else value), end


def pointer(encoding: int, data: bytes, at: int, address: int) -> tuple[int, int]:
    """An encoded pointer, which is at `address` itself, and where the next one begins."""
    form = POINTERS[encoding & 0x0F]
    (value,) = form.unpack_from(data, at)
    if encoding & 0xF0 == _PCREL:
        value += address
    elif encoding & 0xF0:
        raise ValueError("a pointer of an unknown encoding")
    return value & ALL, at + form.size


def fde_of(body: bytes, cie: Cie, address: int) -> Fde:
    """The frame description entry out of what follows its length, which is at `address`."""
    start, at = pointer(cie.encoding, body, 4, address + 4)
    length, at = pointer(cie.encoding & 0x0F, body, at, 0)
    if cie.augmented:
        size, at = uleb(body, at)
        at += size
    return Fde(cie, start, length, body, at)


def cie_of(body: bytes) -> Cie:
    """The common information entry out of what follows its length."""
    if _WORD.unpack_from(body)[0]:
        raise ValueError("no common information entry (CIE)")
    version = body[4]
    end = body.index(b"\0", 5)
    augmentation = body[5:end]
    code_unit, at = uleb(body, end + 1)
    data_unit, at = sleb(body, at)
    if version == 1:
        at += 1
    else:
        _, at = uleb(body, at)
    encoding = 0
    signal = False
    if augmentation[:1] == b"z":
        length, at = uleb(body, at)
        after = at + length
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = body[at]
                at += 1
            elif letter == ord("L"):
                at += 1
            elif letter == ord("P"):
                at += 1 + POINTERS[body[at] & 0x0F].size
            elif letter == ord("S"):
                signal = True
        at = after
    elif augmentation:
        raise ValueError("an unknown augmentation")
    cie = Cie(code_unit, data_unit, encoding, augmentation[:1] == b"z", signal, State())
    *_, (_, last) = _rows(cie, body, at, 0)
    return cie._replace(initial=State(*last))


def _rows(cie: Cie, data: bytes, at: int, start: int) -> Iterator[tuple[int, _Plain]]:
    """Where each row of a function from `start` on ends, and its state."""
    code_unit, unit, initial = cie.code_unit, cie.data_unit, cie.initial
    register, offset, expression, rbp, rbx, outermost, usual = initial
    kept: list[_Plain] = []
    location, size = start, len(data)
    while at < size:
        code = data[at]
        at += 1
        low = code & 0x3F
        if code >= 0xC0:  # restore
            if low == RBP:
                rbp = initial.rbp
            elif low == RBX:
                rbx = initial.rbx
            elif low == RIP:
                outermost, usual = initial.outermost, initial.usual
        elif code >= 0x80:  # offset
            value, at = uleb(data, at)
            if low == RBP:
                rbp = _at_offset(value * unit)
            elif low == RBX:
                rbx = _near(_at_offset(value * unit))
            elif low == RIP:
                outermost, usual = False, value * unit == _RETURN_AT
        elif code >= 0x40:  # advance_loc
            location += low * code_unit
            yield location, (register, offset, expression, rbp, rbx, outermost, usual)
        elif code == 0x0E:  # def_cfa_offset
            offset, at = uleb(data, at)
        elif code == 0x0C:  # def_cfa
            register, at = uleb(data, at)
            offset, at = uleb(data, at)
        elif code == 0x0D:  # def_cfa_register
            register, at = uleb(data, at)
        elif code == 0x0A:  # remember_state
            if len(kept) == _DEEPEST:
                raise ValueError("too many states to remember")
            kept.append((register, offset, expression, rbp, rbx, outermost, usual))
        elif code == 0x0B:  # restore_state
            register, offset, expression, rbp, rbx, outermost, usual = kept.pop()
        elif code in _ADVANCES:
            form = _ADVANCES[code]
            location += form.unpack_from(data, at)[0] * code_unit
            at += form.size
            yield location, (register, offset, expression, rbp, rbx, outermost, usual)
        elif code == 0x0F:  # def_cfa_expression
            length, at = uleb(data, at)
            register, expression = -1, data[at : at + length]
            at += length
        elif code == 0x12:  # def_cfa_sf
            register, at = uleb(data, at)
            offset, at = sleb(data, at)
            offset *= unit
        elif code == 0x13:  # def_cfa_offset_sf
            offset, at = sleb(data, at)
            offset *= unit
        elif code == 0x2E:  # GNU_args_size
            _, at = uleb(data, at)
        elif code:
            # One register's, and seldom.
            which, at = uleb(data, at)
            if code == 0x06:  # restore_extended
                if which == RBP:
                    rbp = initial.rbp
                elif which == RBX:
                    rbx = initial.rbx
                elif which == RIP:
                    outermost, usual = initial.outermost, initial.usual
                continue
            value, at = _saved_at(code, data, at, unit)
            if which == RBP:
                rbp = value
            elif which == RBX:
                rbx = _near(value)
            elif which == RIP:
                usual = value == _RETURN_AT
                outermost = code == 0x07
    yield _NEVER, (register, offset, expression, rbp, rbx, outermost, usual)


_ADVANCES = {0x02: struct.Struct("<B"), 0x03: struct.Struct("<H"), 0x04: _WORD}  # advance_loc1 …


def _saved_at(code: int, data: bytes, at: int, unit: int) -> tuple[int, int]:
    """Where the instruction says a register is, and where the next one begins.

    As an offset from the CFA, or AT_RBP, KEPT; UNKNOWN: elsewhere, or nowhere.
    """
    if code == 0x05:  # offset_extended
        value, at = uleb(data, at)
        return _at_offset(value * unit), at
    if code == 0x11:  # offset_extended_sf
        value, at = sleb(data, at)
        return _at_offset(value * unit), at
    if code == 0x2F:  # GNU_negative_offset_extended
        value, at = uleb(data, at)
        return _at_offset(-value * unit), at
    if code in (0x09, 0x14, 0x15):  # register, val_offset, val_offset_sf
        _, at = uleb(data, at)
        return UNKNOWN, at
    if code == 0x07:  # undefined
        return UNKNOWN, at
    if code == 0x08:  # same_value
        return KEPT, at
    if code in (0x10, 0x16):  # expression, val_expression
        length, at = uleb(data, at)
        found = data[at : at + length]
        return (AT_RBP if code == 0x10 and found == _AT_RBP else UNKNOWN), at + length
    raise ValueError("an unknown instruction")


def _at_offset(offset: int) -> int:
    """That offset, where it is followed: multiples of 8 below the CFA, as compilers make them."""
    return offset if offset % 8 == 0 and -FAR_RBP <= offset < 0 else UNKNOWN


def _near(rbx: int) -> int:
    """Where rbx is, as far as that is followed: nearer than rbp, and never where rbp points to."""
    return rbx if -FAR_RBX <= rbx <= KEPT else UNKNOWN
