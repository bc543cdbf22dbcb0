"""What is known of a CPython: where its runtime is, and the members of its structures."""

from collections.abc import Sequence
from typing import NamedTuple

FREE_THREADED = 1  # a build without the global interpreter lock
NOT_KNOWN = 2  # a version that is newer than this

NONE = 0xFFFF  # no such member
_MOST_OFFSET = 1 << 24  # of a member of the runtime's, or an interpreter's
# Of the others, by their names' first word: what the kernel reads (bpf/python.h), less a word.
_MOST = {"thread": 168, "frame": 72, "within": 1 << 12, "code": 1 << 12}
_BYTE_IN_WORD = {"frame_owner": 7, "frame_entry": 7}  # these have one byte: so much further at most
_MOST_OF_CODE = 112  # from the word of the first to the last that is read of a code object

# The members of struct python_runtime (bpf/shared.h) after `version`, in its order.
MEMBERS = (
    *("interpreters", "next", "threads"),
    *("thread_before", "thread_next", "thread_interp", "thread_id", "thread_frame"),
    *("frame_within", "within_before"),
    *("frame_code", "frame_caller", "frame_at", "frame_owner", "frame_entry"),
    *("code_file", "code_name", "code_lines", "code_line", "code_version", "code_start"),
)
OPTIONAL = ("frame_within", "within_before", "frame_entry", "code_version")
READ_OF_CODE = ("code_file", "code_name", "code_lines", "code_line", "code_version")


class Runtime(NamedTuple):
    """A CPython: where its _PyRuntime is from an offset in the file, and its members' offsets."""

    distance: int  # bytes from what is mapped from that offset, modulo 2**64
    version: int  # PY_VERSION_HEX >> 16
    members: tuple[int, ...]  # by MEMBERS; empty: `why`
    why: int = 0  # FREE_THREADED or NOT_KNOWN


def _most(name: str) -> int:
    return _MOST.get(name.partition("_")[0], _MOST_OFFSET) + _BYTE_IN_WORD.get(name, 0)


def is_valid(members: Sequence[int]) -> bool:
    """Whether these can be the offsets of members of the interpreter's structures."""
    if len(members) != len(MEMBERS) or not all(isinstance(each, int) for each in members):
        return False
    each = dict(zip(MEMBERS, members, strict=True))
    code = [each[name] for name in READ_OF_CODE if each[name] != NONE]
    return (
        bool(code)
        and max(code) - (min(code) & ~7) <= _MOST_OF_CODE
        and all(
            (offset == NONE and name in OPTIONAL) or 0 <= offset <= _most(name)
            for name, offset in each.items()
        )
    )
