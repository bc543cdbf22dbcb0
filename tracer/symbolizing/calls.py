"""Where a call instruction ends, by the bytes before (Intel SDM, volume 2: CALL; 2.1.5)."""

_DIRECT, _INDIRECT = 0xE8, 0xFF  # with rel32; with a ModR/M byte whose reg is 2
_SIB = 4  # ModR/M.rm: a SIB byte follows
_NO_BASE = 5  # rm, or SIB.base, with mod 0: disp32


def ends_in_call(code: bytes) -> bool:
    """Whether bytes end in a call: direct, or of any indirect form. Prefixes do not matter.

    What looks like one may be the end of another instruction; but no call looks otherwise.
    """
    size = len(code)
    if size >= 5 and code[-5] == _DIRECT:
        return True
    return any(
        code[-length] == _INDIRECT and _length(code[-length + 1], code[-length + 2 :]) == length
        for length in (2, 3, 4, 6, 7)
        if length <= size
    )


def _length(modrm: int, rest: bytes) -> int:
    """Bytes of the indirect call with that ModR/M byte; 0 where it is another instruction's."""
    mod, rm = modrm >> 6, modrm & 7
    if modrm >> 3 & 7 != 2:
        return 0
    if mod == 3:
        return 2
    length = 2
    base = rm
    if rm == _SIB:
        length += 1
        base = rest[0] & 7 if rest else _NO_BASE
    if mod == 1:
        return length + 1
    if mod == 2 or base == _NO_BASE:
        return length + 4
    return length
