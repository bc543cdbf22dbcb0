"""The record layout; a header that has another is refused. (All else of it: test_shared.py.)"""

from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.wire.records import load_layout, parse_layout

BPF = Path(__file__).parents[3] / "bpf"
HEADER = (BPF / "shared.h").read_text()
STRUCTS = ("fault", "window", "task", "syscall")


def test_every_record_has_the_ring_s_size() -> None:
    layout = load_layout(BPF)
    assert layout.size % 8 == 0
    assert {getattr(layout, name).itemsize for name in STRUCTS} == {layout.size}


def test_every_record_begins_with_the_same_header() -> None:
    layout = load_layout(BPF)
    for name in STRUCTS:
        fields = getattr(layout, name).fields
        header = {"type": 0, "sequence": 4, "time_ns": 8, "tgid": 16, "tid": 20}
        assert {field: fields[field][1] for field in header} == header
        assert fields["mm"][1] == 24


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("#define RECORD_EXEC    4", "#define RECORD_EXEC    9", "RECORD_EXEC is 9"),
        ("#define MARK_AFTER     0x02", "#define MARK_AFTER     0x04", "MARK_AFTER is 4"),
        ("#define MARK_ANON_FN   0x20", "", "MARK_ANON_FN is None"),
        ("#define RECORD_SIZE", "#define SIZE_OF_RECORD", "RECORD_SIZE"),
        ("	u32 sequence;\n", "", "time_ns is not naturally aligned"),
        ("u64 entries[16];", "u64 entries[17];", "window_record takes"),
        ("u64 entries[16];", "u64 entries[15];", "window_record takes"),
        ("	u64 count;        /* the thread", "	s64 count;        /* the thread", "s64 count"),
        ("	u64 vm_start;\n	u64 vm_end;\n", "	u64 vm_start, vm_end;\n", "vm_start, vm_end"),
        ("struct syscall_record {", "struct syscalls_record {", "syscall_record"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(old: str, new: str, word: str) -> None:
    assert old in HEADER
    with pytest.raises(TraceError, match=word):
        parse_layout(HEADER.replace(old, new, 1))
