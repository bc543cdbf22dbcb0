"""The golden programs (programs/golden), whose faults have known call stacks; how they are built.

Without frame pointers, and in three ways: as programs are as a rule; static, stripped and without
the table that finds unwind information by address; and at fixed addresses.
"""

import os
import subprocess
from functools import cache
from pathlib import Path

from tests.live.workload import BINARY
from tracer.symbolizing.elf import Functions, functions

SOURCES = Path(__file__).with_name("programs") / "golden"
_FLAGS = [
    *("-O2", "-Wall", "-Wextra", "-pthread", "-fomit-frame-pointer", "-fasynchronous-unwind-tables")
]
_PROGRAM = ["golden.c", "calls.c", "frames.c", "flow.c", "code.S"]
_LINKED = [*_PROGRAM, "libraries.c", "golden-linked.so"]
_LAZY = ["-Wl,-z,lazy", "-Wl,-rpath,$ORIGIN"]
_FIXED = ["-no-pie", "-fno-pie", *_LAZY]
# In the order in which they are needed: by name, what they are made of, and how.
_BUILT: dict[str, tuple[list[str], list[str]]] = {
    "golden-linked.so": (["library.c"], ["-DNAME=linked", "-DFRAME=256"]),
    "golden-one.so": (["library.c"], ["-DNAME=one", "-DFRAME=512"]),
    "golden-two.so": (["library.c"], ["-DNAME=two", "-DFRAME=1024"]),
    "golden": (_LINKED, ["-pie", "-fpie", *_LAZY]),
    "golden-fixed": (_LINKED, [*_FIXED, '-DSUCCESSOR="-other"']),
    "golden-fixed-other": (_LINKED, [*_FIXED, "-DAGAIN_FRAME=1024", '-DSUCCESSOR="-other"']),
    "golden-static.full": (_PROGRAM, ["-static", "-Wl,--no-eh-frame-hdr"]),
}


def program(name: str) -> Path:
    """A golden program, built where it is not, or its sources are newer. Raises OSError."""
    build()
    return BINARY.with_name(name)


def build() -> None:
    """Build all that is older than the sources. Raises CalledProcessError."""
    newest = max(source.stat().st_mtime for source in [*SOURCES.iterdir(), Path(__file__)])
    folder = BINARY.parent
    folder.mkdir(exist_ok=True)
    for name, (sources, flags) in _BUILT.items():
        made = folder / name
        if made.exists() and made.stat().st_mtime >= newest:
            continue
        fresh = folder / f"{name}.{os.getpid()}"  # several test runs may build at once
        if name.endswith(".so"):
            flags = ["-shared", "-fpic", f"-Wl,-soname,{name}", *_LAZY, *flags]
        inputs = [str((folder if each.endswith(".so") else SOURCES) / each) for each in sources]
        subprocess.run(["gcc", *_FLAGS, *flags, "-o", str(fresh), *inputs], check=True)
        if name.endswith(".full"):
            stripped = fresh.with_suffix(".stripped")
            subprocess.run(["strip", "-s", "-o", str(stripped), str(fresh)], check=True)
            stripped.replace(made.with_suffix(""))
        fresh.replace(made)


@cache
def function_at(offset: int) -> str:
    """The function at an offset in golden-static, by the names of its twin that is not stripped."""
    named = _of_the_twin().at(offset)
    return named[0] if named else ""


@cache
def _of_the_twin() -> Functions:
    twin = BINARY.with_name("golden-static.full")
    found = functions(lambda: os.open(twin, os.O_RDONLY))
    assert found is not None
    return found


if __name__ == "__main__":
    build()
