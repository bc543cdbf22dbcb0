"""Copies of stacks, and stacks, out of the kernel's records."""

import numpy as np

from tests.unit.copies_data import copied
from tests.unit.faults_data import LAYOUT
from tracer.callstacks.records import (
    _COPY,
    Part,
    assembled,
    copy_of,
    ends_at,
    part_of,
    words_of,
)
from tracer.callstacks.unwinding import Copy, End
from tracer.wire.shared import COPIED_BELOW, STACK_USER

SP = 0x7FFC_0000_0000


def test_the_head_of_a_copy_is_the_kernel_s() -> None:
    """Member for member as bpf/shared.h has it."""
    layout = LAYOUT.structs["stack_copy"]
    assert _COPY.size == layout.itemsize
    made = np.zeros(1, layout)
    for number, name in enumerate(layout.names or (), 1):
        made[name] = number
    piece = made.tobytes()
    assert part_of(piece) == Part(*range(1, 12))
    assert Part._fields == layout.names
    assert ends_at(piece) == tuple(
        int(made[name][0]) for name in ("stack", "offset", "program", "ip", "exact")
    )


def test_a_copy_is_put_together() -> None:
    parts = [
        copied(7, 0x401000, [1, 2], sp=SP, fp=5, bx=6, exact=True),
        copied(7, 0x401000, [3], sp=SP, offset=COPIED_BELOW + 16),
        copied(7, 0x401000, [4], sp=SP, offset=COPIED_BELOW + 24),
    ]
    words = [np.array(each, "<u8").tobytes() for each in ([1, 2], [3], [4])]
    whole = bytes(COPIED_BELOW) + b"".join(words)
    assert copy_of(parts) == Copy(0x401000, SP, 5, 6, True, whole)
    assert words_of(parts[0]).tolist() == [0] * 16 + [1, 2]
    assert words_of(parts[1]).tolist() == [3]
    # Without a part in between what comes after it is of no use.
    assert copy_of([parts[0], parts[2]]).data == bytes(COPIED_BELOW) + words[0]


def test_a_copy_of_bytes_that_are_no_whole_words() -> None:
    piece = copied(7, 0x401000, [1, 2])[:-3]
    assert words_of(piece).tolist() == [0] * 16 + [1]
    assert copy_of([piece]).words().tolist()[:17] == [0] * 16 + [1]


def stack(ips: list[int], caller: int) -> np.ndarray:
    record = np.zeros(1, LAYOUT.stack)
    record["user"], record["caller"], record["program"] = len(ips), caller, 99
    record["ips"][0, : len(ips)] = ips
    return record


def test_a_walk_by_rules_has_an_end_and_no_caller() -> None:
    for end in range(1, 7):
        raw = assembled(list(stack([0x401000, 0, 5], end)))
        assert raw is not None
        assert (raw.end, raw.caller, raw.program) == (End(end), 0, 99)
        assert raw.user.tolist() == [0x401000, 0, 5]  # it is checked later


def test_a_walk_by_frame_pointers_has_none() -> None:
    for caller in (0, 0x402000):
        raw = assembled(list(stack([0x401000, 0, 5], caller)))
        assert raw is not None
        assert (raw.end, raw.caller, raw.truncated) == (End.NOT_WALKED, caller, False)
        assert raw.user.tolist() == [0x401000]


def test_a_stack_has_room_for_so_many_frames_in_its_parts() -> None:
    room = LAYOUT.stack["ips"].shape[0]
    parts = []
    for first in range(0, STACK_USER, room):
        part = stack([first + at for at in range(min(room, STACK_USER - first))], End.LIMIT)
        part["user"], part["first"] = STACK_USER, first
        parts.append(part[0])
    raw = assembled(parts)
    assert raw is not None
    assert raw.user.tolist() == list(range(STACK_USER))
    assert raw.truncated
    assert assembled(parts[1:]) is None
    assert assembled(parts[:-1]) is None
