"""Compare the compiled code of two folders of BPF sources: `python -m bench.same_code OLD NEW`.

For changes that move or rename code. Each probe is compiled with every combination of kernel
features, and compared function by function: the instructions, with map names for descriptors,
and the maps. Needs the right to create maps; the running kernel's offsets are used for all.
Exits with 1 where anything differs.
"""

import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tracer.kernel.btf import Btf
from tracer.probes.compiled import Answer, Function, decode, encode
from tracer.probes.compiler import Build, builds_for

_CAST = 1  # a BTF id: any
# Kernel features and the macros that a build then defines (compiler.py).
FEATURES = {
    "namespace": ("-DPID_NAMESPACE",),
    "ring": ("-DMAPPED_RING",),
    "preemptible": ("-DPREEMPTIBLE_HANDLERS",),
    "casts": ("-DCAST_CALL=2125266945", "-DTYPE_WORDS=1", "-DTYPE_VMA=2"),
}
# One more: five page-table levels, and a kernel without the optional members.
_BARE = "five levels, no optional member"
_OPTIONAL = (
    *("O_MM_OWNER", "O_UFFD_MM", "O_TASK_THREAD", "O_THREAD_SP", "O_FORK_REGS"),
    "O_MM_DEF_FLAGS",
)
_INSTRUCTION = struct.Struct("<BBhi")


@dataclass(frozen=True)
class Variant:
    """One build: of a probe, with or without stacks, on a kernel with `features`."""

    probe: str
    stacks: bool
    features: tuple[str, ...]
    build: Build

    def __str__(self) -> str:
        return f"{self.probe}{' with stacks' * self.stacks}, {', '.join(self.features) or 'plain'}"


@dataclass(frozen=True)
class Compared:
    """The result of one build of both folders."""

    variant: Variant
    functions: int
    instructions: int
    differences: list[str]


def variants() -> Iterator[Variant]:
    """Every variant, with the running kernel's offsets."""
    with Btf() as btf:
        builds = {stacks: builds_for(btf, stacks=stacks) for stacks in (False, True)}
    some = itertools.chain.from_iterable(
        itertools.combinations(FEATURES, count) for count in range(len(FEATURES) + 1)
    )
    for features, stacks in itertools.product([*some, (_BARE,)], (False, True)):
        for probe, build in builds[stacks].items():
            yield Variant(probe, stacks, features, _with(build, features))


def _with(build: Build, features: Sequence[str]) -> Build:
    """`build` on a kernel that has exactly these features."""
    varied = {flag.partition("=")[0] for flags in FEATURES.values() for flag in flags}
    bare = _BARE in features
    if bare:
        varied |= {f"-D{name}" for name in _OPTIONAL} | {"-DLEVELS"}
    flags = [flag for flag in build.flags if flag.partition("=")[0] not in varied]
    flags += [flag for name in features for flag in FEATURES.get(name, ("-DLEVELS=5",))]
    return Build(tuple(flags), _CAST if "casts" in features else 0)


def compare(old: Answer, new: Answer) -> list[str]:
    """What differs, a line each."""
    found = []
    maps = [{each.name: each for each in answer.maps} for answer in (old, new)]
    for name in sorted(maps[0].keys() | maps[1].keys()):
        before, after = maps[0].get(name), maps[1].get(name)
        if before != after:
            found.append(f"map {name}: {before} → {after}")
    functions = [{each.name: each for each in answer.functions} for answer in (old, new)]
    for name in sorted(functions[0].keys() | functions[1].keys()):
        if why := _differ(functions[0].get(name), functions[1].get(name)):
            found.append(f"{name}: {why}")
    return found


def _differ(old: Function | None, new: Function | None) -> str:
    if old is None or new is None:
        return f"is in the {'new' if old is None else 'old'} folder only"
    code = [instructions(each) for each in (old, new)]
    for number, (before, after) in enumerate(zip(*code, strict=False)):
        if before != after:
            return f"instruction {number} of {len(code[0])}: {before} → {after}"
    if len(code[0]) != len(code[1]):
        return f"{len(code[0])} instructions → {len(code[1])}"
    return ""


def instructions(function: Function) -> list[tuple[int | str, ...]]:
    """Operation, registers, offset, and the immediate value or the map's name, of each."""
    maps = dict(function.maps)
    return [
        (operation, registers, offset, maps.get(number, value))
        for number, (operation, registers, offset, value) in enumerate(
            _INSTRUCTION.iter_unpack(function.code)
        )
    ]


def compared(variant: Variant, folders: Sequence[Path]) -> Compared:
    """Compile both folders, each in a process of its own, as clang does not free its memory."""
    old, new = (_compiled(variant.build, folder) for folder in folders)
    count = sum(len(each.code) // _INSTRUCTION.size for each in new.functions)
    return Compared(variant, len(new.functions), count, compare(old, new))


def _compiled(build: Build, folder: Path) -> Answer:
    request = json.dumps([str(folder), build.flags, build.cast])
    command = [sys.executable, "-m", "bench.same_code", "--inside", request]
    return decode(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def compile_inside(request: str) -> None:
    folder, flags, cast = json.loads(request)
    print(encode(Build(tuple(flags), cast).compile(Path(folder))))


def render(results: Sequence[Compared]) -> str:
    """A table by probe, then what differs."""
    lines = [f"{'':20} {'builds':>7} {'functions':>10} {'instructions':>13} {'different':>10}"]
    of: dict[tuple[str, bool], list[Compared]] = {}
    for each in results:
        of.setdefault((each.variant.probe, each.variant.stacks), []).append(each)
    for (probe, stacks), group in of.items():
        counts = [len(group), *(sum(row) for row in zip(*map(_counts, group), strict=True))]
        lines.append(
            "{:20} {:7,} {:10,} {:13,} {:10,}".format(probe + " --stacks" * stacks, *counts)
        )
    lines += [f"{each.variant}: {line}" for each in results for line in each.differences]
    return "\n".join(lines)


def _counts(each: Compared) -> tuple[int, int, int]:
    return each.functions, each.instructions, bool(each.differences)


def main(arguments: Sequence[str]) -> int:
    """Compare two folders, or with `--inside REQUEST` compile one, in a process of its own."""
    if arguments[:1] == ["--inside"]:
        compile_inside(arguments[1])
        return 0
    parser = argparse.ArgumentParser(prog="python -m bench.same_code", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD_BPF_DIR")
    parser.add_argument("new", type=Path, metavar="NEW_BPF_DIR")
    options = parser.parse_args(arguments)
    folders = options.old.resolve(), options.new.resolve()  # bcc crashes on relative paths
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda variant: compared(variant, folders), variants()))
    print(render(results))
    return 1 if any(each.differences for each in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
