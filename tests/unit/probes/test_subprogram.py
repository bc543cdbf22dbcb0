"""Programs linked with the functions they call."""

import struct

from tracer.probes import subprogram

CALL, EXIT = 0x85, struct.pack("<BBhi", 0x95, 0, 0, 0)
MOVE = struct.pack("<BBhi", 0xB7, 0, 0, 7)


def call(number: int, source: int = 0) -> bytes:
    return struct.pack("<BBhi", CALL, source << 4, 0, number)


def instructions(code: bytes) -> list[tuple[int, int, int, int]]:
    return [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]


def targets(code: bytes) -> dict[int, int]:
    """By instruction: where a call of a function leads."""
    return {
        at: at + 1 + number
        for at, (operation, registers, _, number) in enumerate(instructions(code))
        if operation == CALL and registers >> 4 == 1
    }


def test_a_call_of_a_helper_is_one_of_a_function_behind_the_program() -> None:
    code, starts = subprogram.linked(MOVE + call(900) + EXIT, {900: MOVE + EXIT})
    assert code[:8] + code[16:] == MOVE + EXIT + MOVE + EXIT
    assert starts == {900: 3}
    assert targets(code) == {1: 3}


def test_other_calls_are_left_alone() -> None:
    """Of other helpers, and of functions already."""
    program = call(14) + call(900, source=1) + EXIT
    assert subprogram.linked(program, {900: EXIT}) == (program, {})


def test_a_function_that_is_called_twice_is_there_once() -> None:
    code, starts = subprogram.linked(call(900) + call(901) + call(900) + EXIT,
                                     {900: MOVE + EXIT, 901: EXIT, 902: EXIT})  # fmt: skip
    assert starts == {900: 4, 901: 6}
    assert targets(code) == {0: 4, 1: 6, 2: 4}
    assert len(code) == 7 * 8


def test_functions_call_functions() -> None:
    functions = {900: call(901) + EXIT, 901: call(14) + call(902) + EXIT, 902: EXIT}
    code, starts = subprogram.linked(call(902) + call(900) + EXIT, functions)
    assert starts == {902: 3, 900: 4, 901: 6}
    assert targets(code) == {0: 3, 1: 4, 4: 6, 7: 3}
    assert instructions(code)[6] == (CALL, 0, 0, 14)


def test_the_types_of_functions() -> None:
    """BTF as Documentation/bpf/btf.rst has it: two functions and their prototypes."""
    data = subprogram.btf()
    magic, version, _, head, *sizes = struct.unpack_from("<HBBIIIII", data)
    assert (magic, version, head) == (0xEB9F, 1, 24)
    at, types_size, strings_at, strings_size = sizes
    assert (at, strings_at, head + strings_at + strings_size) == (0, types_size, len(data))
    strings = data[head + strings_at :]

    def name(offset: int) -> str:
        return strings[offset : strings.index(b"\0", offset)].decode()

    found = []
    at = head
    while at < head + types_size:
        named, info, size = struct.unpack_from("<III", data, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        at += 12
        if kind == 1:
            assert struct.unpack_from("<I", data, at) == (64,)  # bits, unsigned
            at += 4
        elif kind == 13:
            found += [(kind, "", *struct.unpack_from("<II", data, at))] if count else []
            at += 8 * count
        found.append((kind, name(named), count, size))
    argument = (13, "", strings.index(b"argument"), 1)
    assert found == [
        (1, "u64", 0, 8),
        (13, "", 0, 1),
        argument,
        (13, "", 1, 1),
        (12, "main", 0, 2),
        (12, "function", 1, 3),
    ]


def test_which_function_begins_where() -> None:
    infos = subprogram.functions([3, 6])
    assert struct.unpack("<6I", infos) == (0, 4, 3, 5, 6, 5)
