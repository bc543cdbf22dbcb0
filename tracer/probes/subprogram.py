"""Links a program with a global function that it calls, as libbpf would do it.

The verifier checks a global function once, by itself, and not at each call: a walk through 127
frames is too much for it anywhere else. bcc knows no calls of functions: it makes each of them
inline, and compiles those with external names by themselves. So the source calls a helper of an
unassigned number, which becomes the call of the function, put behind the program. The kernel wants
BTF for that: the functions' prototypes (Documentation/bpf/btf.rst).
"""

import struct
from collections.abc import Iterable

_CALL, _PSEUDO_CALL = 0x85, 1  # BPF_JMP | BPF_CALL, and its source register
_INSTRUCTION = struct.Struct("<BBhi")

_BTF_MAGIC, _BTF_VERSION, _HEADER_BYTES = 0xEB9F, 1, 24
# BTF kinds, in the upper half of `info`, and the linkage of a function, in its lower half
_INT, _FUNC, _PROTOTYPE = 1 << 24, 12 << 24, 13 << 24
_GLOBAL = 1
_MAIN, _FUNCTION = 4, 5  # the types' numbers, from 1 on in the order below


def linked(code: bytes, functions: dict[int, bytes]) -> tuple[bytes, dict[int, int]]:
    """A program with its calls of helpers of these numbers made calls of functions behind it.

    Second, the number of the first instruction of each function that it calls.
    """
    out, at = bytearray(code), 0
    starts: dict[int, int] = {}
    while at < len(out):  # through the functions, too, which may call others
        operation, registers, _, number = _INSTRUCTION.unpack_from(out, at)
        if operation == _CALL and registers >> 4 == 0 and number in functions:
            if number not in starts:
                starts[number] = len(out) // 8
                out += functions[number]
            distance = starts[number] - at // 8 - 1
            _INSTRUCTION.pack_into(out, at, _CALL, _PSEUDO_CALL << 4, 0, distance)
        at += 8
    return bytes(out), starts


def btf() -> bytes:
    """BTF of `u64 main(void)` and of a global `u64 function(u64)`."""
    strings = b"\0u64\0main\0argument\0function\0"

    def name(word: bytes) -> int:
        return strings.index(b"\0" + word + b"\0") + 1

    types = b"".join(
        (
            struct.pack("<IIII", name(b"u64"), _INT, 8, 64),  # 1
            struct.pack("<III", 0, _PROTOTYPE, 1),  # 2: u64 (void)
            struct.pack("<IIIII", 0, _PROTOTYPE | 1, 1, name(b"argument"), 1),  # 3: u64 (u64)
            struct.pack("<III", name(b"main"), _FUNC, 2),  # 4: static
            struct.pack("<III", name(b"function"), _FUNC | _GLOBAL, 3),  # 5
        )
    )
    sizes = _HEADER_BYTES, 0, len(types), len(types), len(strings)
    return struct.pack("<HBBIIIII", _BTF_MAGIC, _BTF_VERSION, 0, *sizes) + types + strings


def functions(starts: Iterable[int]) -> bytes:
    """struct bpf_func_info of a program and of functions that begin at these instructions."""
    infos = [struct.pack("<II", start, _FUNCTION) for start in starts]
    return struct.pack("<II", 0, _MAIN) + b"".join(infos)
