"""bpf/shared.h: C and numpy lay out every struct alike; a header that we do not know is refused."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tracer.callstacks import kernel_rules
from tracer.callstacks.unwinding import End
from tracer.common.errors import Exit, TraceError
from tracer.symbolizing import rule
from tracer.symbolizing.rule import Cfa
from tracer.wire import shared
from tracer.wire.records import Mark, RecordType, parse_layout
from tracer.wire.shared import pack, parse, unpack

BPF = Path(__file__).parents[3] / "bpf"
HEADER = (BPF / "shared.h").read_text()
OTHERS = [path for path in BPF.glob("*.[ch]") if path.name != "shared.h"]
# The programs' alone, but one of a list that user space shares.
THEIRS = {
    *("RECORD_SIZE", "FAULT_FLAG_TRIED", "FAULT_FLAG_REMOTE"),
    *("VM_FAULT_SIGBUS", "VM_FAULT_RETRY", "VM_FAULT_ERROR"),
    *("CALL_SHMAT", "CALL_SHMDT", "CALL_USERFAULTFD", "CALL_PKEY_MPROTECT"),
    "CALL_PROCESS_MADVISE",
    *("STATE_OPEN", "STATE_READS", "STATE_ENTRY", "STATE_TRIED", "STATE_RETRIED", "STATE_STACK"),
    *("STATE_FILE", "STATE_REMOTE", "CALL_PROT_EXEC", "CALL_MAP_ANONYMOUS"),
    *("COPY_BYTES", "COPY_PARTS", "PYTHON_LOOPS"),
}
# Those by which stacks are walked: the packages above this one have them.
WALKING = {
    **{f"RULE_CFA_{member.name}": member.value for member in Cfa},
    **{f"END_{member.name}": member.value for member in End if member < End.NO_COPY},
    "RULE_KEPT": rule.KEPT,
    "RULE_AT_RBP": rule.AT_RBP,
    "RULE_UNKNOWN": rule.UNKNOWN & 0xFFFF,
    "RULE_UNKNOWN_RBX": kernel_rules._UNKNOWN_RBX,
}


def ours() -> dict[str, int]:
    types = {f"RECORD_{member.name}": member.value for member in RecordType}
    marks = {f"MARK_{member.name}": member.value for member in Mark}
    return {**shared._NUMBERS, **types, **marks}


def compiled_layout(folder: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of every member as gcc lays it out, and each struct's size."""
    lines = []
    for name, struct in parse(HEADER).structs.items():
        lines.append(f'printf("{name} 0 %zu\\n", sizeof(struct {name}));')
        for member in struct.names or ():
            expression = (
                f"offsetof(struct {name}, {member}), sizeof(((struct {name} *)0)->{member})"
            )
            lines.append(f'printf("{name}.{member} %zu %zu\\n", {expression});')
    source = folder / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
        "typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;\n"
        f'#include "{BPF / "shared.h"}"\nint main(void)\n{{\n' + "\n".join(lines) + "\n}\n"
    )
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-Wpadded", "-o", folder / "layout", source], check=True
    )
    output = subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in output.splitlines())
    return {name: (int(offset), int(size)) for name, offset, size in rows}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_c_and_numpy_lay_out_every_member_alike(tmp_path: Path) -> None:
    laid_out = {}
    for name, struct in parse(HEADER).structs.items():
        laid_out[name] = (0, struct.itemsize)
        for member, (kind, offset, *_) in (struct.fields or {}).items():
            laid_out[f"{name}.{member}"] = (offset, kind.itemsize)
    assert compiled_layout(tmp_path) == laid_out


def test_every_number_is_known_here_or_the_programs_alone() -> None:
    numbers = parse(HEADER).numbers
    assert ours().keys() | THEIRS | WALKING.keys() == numbers.keys()
    assert not (ours().keys() | WALKING.keys()) & THEIRS


def test_stacks_are_walked_by_the_same_numbers_in_the_kernel_and_here() -> None:
    numbers = parse(HEADER).numbers
    assert {name: numbers.get(name) for name in WALKING} == WALKING


def test_a_bit_that_is_handed_on_is_the_same_in_both_words() -> None:
    """fault_record.flags and struct pending.state."""
    numbers = parse(HEADER).numbers
    assert numbers["STATE_TRIED"] == numbers["FAULT_FLAG_TRIED"]


def test_what_is_shared_is_defined_once() -> None:
    """No part of the programs has a number or a struct of the same name."""
    known = parse(HEADER)
    for path in OTHERS:
        text = path.read_text()
        assert not known.numbers.keys() & set(re.findall(r"#define (\w+)\s", text)), path.name
        assert not known.structs.keys() & set(re.findall(r"^struct (\w+) \{", text, re.M))


@pytest.mark.parametrize("name", sorted(ours()))
def test_another_number_is_refused(name: str) -> None:
    """Of every one that is known here: another value, and none."""
    line = re.compile(rf"^#define {name}\s.*\n", re.MULTILINE)
    assert len(line.findall(HEADER)) == 1
    for other, said in ((f"#define {name} 77\n", "77"), ("", "None")):
        with pytest.raises(
            TraceError, match=rf"disagree: {name} is {said} in the header"
        ) as caught:
            parse_layout(line.sub(other, HEADER))
        assert caught.value.code == Exit.TRACER_FAILED


@pytest.mark.parametrize(
    ("struct", "member"),
    [(name, member) for name, each in shared._MEMBERS.items() for member in each.split()],
)
def test_a_member_that_is_not_there_is_refused(struct: str, member: str) -> None:
    changed = re.sub(
        rf"(^struct {struct} \{{.*?\s){member}(\[\d+\])?;", r"\1other\2;", HEADER, flags=re.M | re.S
    )
    assert changed != HEADER
    with pytest.raises(TraceError, match=rf"does not define {struct}\.{member}$"):
        parse(changed)


@pytest.mark.parametrize("struct", shared._MEMBERS)
def test_a_struct_that_is_not_there_is_refused(struct: str) -> None:
    with pytest.raises(TraceError, match=rf"does not define struct {struct}$"):
        parse(HEADER.replace(f"struct {struct} {{", f"struct other_{struct} {{"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("u64 apart[15];", "u64 apart[14];", "the offset of positions.tail is 120 in the header"),
        ("u64 apart[15];", "u64 apart[99999];", "positions.apart is there twice, or too large"),
        ("u64 apart[15];", "u64 head;", "positions.head is there twice"),
        ("	u64 ended;", "	s64 ended;", "totals has a member we cannot read: s64 ended"),
        ("	u32 spare;\n};", "};", "target ends with padding"),
        ("	u32 beyond;", "	u16 beyond;", "pending.task is not naturally aligned"),
        ("struct fault_record record;", "struct faults record;", "struct faults is not defined"),
        ("#define STATE_OPEN 0x01", "#define STATE_OPEN (1 | 2)", "STATE_OPEN is no number"),
        ("#define STATE_OPEN 0x01", "#define STATE_OPEN 010", "STATE_OPEN is no number"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(old: str, new: str, said: str) -> None:
    assert old in HEADER
    with pytest.raises(TraceError, match=re.escape(said)):
        parse(HEADER.replace(old, new, 1))


def test_members_that_swap_offsets_are_followed() -> None:
    """Layouts are made from the header: C and Python cannot differ in them."""
    swapped = HEADER.replace("	u64 ended; ", "	u64 @; ").replace(
        "	u64 begun; ", "	u64 ended; "
    )
    structs = [parse(each).structs["totals"] for each in (HEADER, swapped.replace("@", "begun"))]
    values = [pack(each, begun=1, ended=2) for each in structs]
    assert values[0][:16] == values[1][8:16] + values[1][:8] != values[1][:16]
    assert unpack(structs[1], values[1])["ended"] == 2


def test_a_value_survives_the_way() -> None:
    settings = parse(HEADER).structs["settings"]
    members = dict.fromkeys(settings.names or (), 0)
    members |= {"namespace": (1 << 64) - 4096, "range_end": 1 << 47, "always": 1 << 31}
    assert unpack(settings, pack(settings, **members)) == members
    with pytest.raises(ValueError, match="direct"):
        pack(settings, direct=1)


def test_reading_it_takes_no_time() -> None:
    """It is done at every start."""
    took = []
    for _ in range(20):
        began = time.perf_counter()
        parse_layout(HEADER)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.01
