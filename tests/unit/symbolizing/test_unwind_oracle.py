"""Unwind rules held against readelf: of the C library, of the loader, and of what `as` makes."""

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.readelf_rows import Comparison, compare
from tracer.procfs.maps import read_maps

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
# Rows in 10,000 that may be in no form that the kernel follows: of the C library and the loader
# those are the ends of longjmp and setcontext, and vfork, of libcrypto what has the CFA in a
# register that calls do not keep.
FEW, OF_LIBCRYPTO = 5, 150


def mapped(start: str) -> str:
    """The path of a library of ours."""
    (path,) = {
        mapping.path
        for mapping in read_maps(int(Path("/proc/self").readlink().name))
        if Path(mapping.path).name.startswith(start)
    }
    return path


def held(path: str, most: int, least: int) -> Comparison:
    found = compare(path)
    assert found.different == []
    assert found.rows > least
    assert sum(found.kinds.values()) * 10_000 <= most * found.rows, found.kinds
    return found


def test_every_row_of_the_c_library() -> None:
    held(mapped("libc.so"), FEW, 10_000)


def test_every_row_of_the_loader() -> None:
    held(mapped("ld-linux"), FEW, 1_000)


def test_every_row_of_libcrypto() -> None:
    """Its assembly stores the stack pointer on the stack: by hand it says where."""
    pytest.importorskip("ssl")
    if not any("libcrypto.so" in each.path for each in read_maps(os.getpid())):
        pytest.skip("it is not in a file of its own")
    assert held(mapped("libcrypto.so"), OF_LIBCRYPTO, 10_000).followed == 0


def directives(random: Random) -> list[str]:
    """What may be said of a function's frame, at random."""
    found = []
    depth = 0
    for _ in range(random.randrange(24)):
        register = random.choice(["%rbp", "%rbx", "%r12", "%rip", "%rbp", "%rbp"])
        offset = random.choice([-8, -16, -24, -16, 8, 0, -64, -1000, -2032, -2040, -40000])
        cfa = random.choice(["%rsp", "%rbp", "%rsp", "%rbx"])
        far = random.choice([8, 16, 24, 64, 127, 128, 0x4000, -8, 1 << 20])
        kind = random.randrange(13)
        if kind == 10:
            depth += 1
        elif kind == 11:
            if not depth:
                continue
            depth -= 1
        found.append(
            [
                f".cfi_def_cfa {cfa}, {far}",
                f".cfi_def_cfa_offset {far}",
                f".cfi_def_cfa_register {cfa}",
                f".cfi_offset {register}, {offset}",
                f".cfi_restore {register}",
                # Neither rbp nor rbx: readelf has the same letter where nothing is said of it.
                f".cfi_undefined {random.choice(['%rip', '%r12'])}",
                f".cfi_same_value {register}",
                f".cfi_register {register}, %rax",
                f".cfi_adjust_cfa_offset {random.choice([8, -8, 64])}",
                # The CFA: what lies at rbp - 8, or at rsp - 8, and 8 more, or 16; rbp, and rbx:
                # where rbp points to.
                random.choice(
                    [
                        ".cfi_escape 0x0f, 3, 0x76, 0x78, 0x06",
                        ".cfi_escape 0x0f, 5, 0x77, 0x78, 0x06, 0x23, 8",
                        ".cfi_escape 0x0f, 5, 0x77, 0x78, 0x06, 0x23, 16",
                        ".cfi_escape 0x10, 6, 2, 0x76, 0",
                        ".cfi_escape 0x10, 3, 2, 0x76, 0",
                        ".cfi_escape 0x10, 6, 2, 0x77, 0",
                        ".cfi_escape 0x0f, 2, 0x77, 8",
                        ".cfi_escape 0x2e, 0x10",
                    ]
                ),
                ".cfi_remember_state",
                ".cfi_restore_state",
                f".cfi_val_offset {random.choice(['%rbp', '%rbx'])}, -16",
            ][kind]
        )
        if random.random() < 0.7:
            found.append(f".skip {random.choice([1, 2, 40, 63, 64, 300, 70_000])}, 0x90")
    return found


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("table", [True, False], ids=["table", "list"])
def test_every_row_of_functions_at_random(tmp_path: Path, table: bool) -> None:
    """Instructions that no compiler makes in that order, but may make."""
    random = Random(1)
    lines = [".text"]
    for number in range(600):
        signal = [".cfi_signal_frame"] if random.random() < 0.1 else []
        lines += [f"f{number}:", ".cfi_startproc", *signal, "nop", *directives(random), "nop"]
        lines += [".cfi_endproc"]
    source, made = tmp_path / "x.s", tmp_path / "x.so"
    source.write_text("\n".join(lines) + '\n.section .note.GNU-stack,"",@progbits\n')
    header = "-Wl,--eh-frame-hdr" if table else "-Wl,--no-eh-frame-hdr"
    subprocess.run(
        ["gcc", "-shared", "-nostdlib", header, "-o", str(made), str(source)],
        check=True,
        timeout=120,
    )
    found = compare(str(made))
    assert found.different == []
    assert found.rows > 2_000
    assert sum(found.kinds.values()) < found.rows / 2
