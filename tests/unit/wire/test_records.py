"""The record layout: C and numpy agree on every field; a header we do not know is refused."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.wire.records import Mark, RecordType, load_layout, parse_layout

BPF = Path(__file__).parents[3] / "bpf"
HEADER = (BPF / "record.h").read_text()
STRUCTS = ("fault", "window", "task", "syscall")


def compiled_layout(folder: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of every field as gcc lays it out, and each struct's size."""
    layout = load_layout(BPF)
    lines = []
    for name in STRUCTS:
        struct = f"struct {name}_record"
        lines.append(f'printf("{name} 0 %zu\\n", sizeof({struct}));')
        for field in getattr(layout, name).names:
            place = f"offsetof({struct}, {field}), sizeof((({struct} *)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", {place});')
    source = folder / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
        "typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;\n"
        f'#include "{BPF / "record.h"}"\nint main(void)\n{{\n' + "\n".join(lines) + "\n}\n"
    )
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-Wpadded", "-o", folder / "layout", source], check=True
    )
    output = subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in output.splitlines())
    return {name: (int(offset), int(size)) for name, offset, size in rows}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_c_and_numpy_lay_out_every_field_alike(tmp_path: Path) -> None:
    layout = load_layout(BPF)
    ours = {}
    for name in STRUCTS:
        dtype = getattr(layout, name)
        ours[name] = (0, dtype.itemsize)
        for field in dtype.names:
            kind, offset = dtype.fields[field][:2]
            ours[f"{name}.{field}"] = (offset, kind.itemsize)
    assert compiled_layout(tmp_path) == ours


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


def test_the_header_s_constants_are_those_of_the_enums() -> None:
    constants = load_layout(BPF).constants
    types = {f"RECORD_{member.name}": member.value for member in RecordType}
    marks = {f"MARK_{member.name}": member.value for member in Mark}
    assert constants == {**types, **marks, "RECORD_SIZE": constants["RECORD_SIZE"]}


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
