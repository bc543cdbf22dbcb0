"""The maps by which the programs walk stacks: unwind rules, and which program each process runs.

With --stacks only, where the kernel can walk by rules (bpf/unwind.bpf.h).
"""

import contextlib
import secrets
from collections.abc import Mapping

from tracer.common.types import U64
from tracer.probes import bpf
from tracer.wire.copies import CopyRing
from tracer.wire.shared import Struct, pack, unpack

COPIES = "copies"  # the ring of copies of stacks
COPIES_BYTES = 1 << 25  # of its data
_RULES, _PROGRAMS, _BY_NUMBER, _UNALIKE = "rules", "programs", "known_programs", "unalike"
_EPOCH, _FIRST = "rules_epoch", bytes(4)
_PYTHONS = "pythons"
_NAMES = (COPIES, _RULES, _PROGRAMS, _BY_NUMBER, _UNALIKE, _EPOCH, _PYTHONS)


class UnwindMaps:
    """The maps of a loaded program; after `close`, when the trace is over, they do nothing."""

    def __init__(self, maps: Mapping[str, bpf.Map], program: Struct, python: Struct) -> None:
        """`maps`: all of them by name, whose descriptors others close.

        `program`, `python`: the structs program and python_runtime.
        """
        self._maps = {name: maps[name] for name in _NAMES}
        self._struct = program
        self._python = python
        self._epoch = 0

    def open_copies(self) -> CopyRing:
        """Open the ring of copies of stacks; one reader at a time."""
        return CopyRing(self._maps[COPIES].fd, COPIES_BYTES)

    def install(self, keys: U64, values: U64) -> None:
        """Give the walk of stacks unwind rules (struct rule, as numbers), by their keys."""
        if self._maps:
            self._maps[_RULES].update_many(keys.tobytes(), values.tobytes())

    def install_python(self, number: int, runtime: Mapping[str, int]) -> None:
        """Give the walk of Python's frames a struct python_runtime, by a program's number."""
        if self._maps:
            value = pack(self._python, **runtime)
            with contextlib.suppress(OSError):  # there are too many: C frames are shown
                self._maps[_PYTHONS].update(number.to_bytes(8, "little"), value)
            self._next_epoch()

    def remove(self, keys: U64) -> None:
        """Remove the rules with these keys."""
        if self._maps:
            self._maps[_RULES].remove_many(keys.tobytes())
            self._next_epoch()

    def reset(self) -> None:
        """Remove all rules, for another trace: it is not to know those of this one."""
        if self._maps:
            for name in (_RULES, _PROGRAMS, _UNALIKE, _PYTHONS):
                self._maps[name].clear()
            self._next_epoch()

    def known_program(self, own: int) -> dict[str, int] | None:
        """The `struct program` of that number; None where the kernel does not know it any more."""
        return self._program(_BY_NUMBER, own.to_bytes(8, "little"))

    def program_of(self, tgid: int) -> int:
        """The own number of the program that a process runs; 0 where it is not known yet."""
        found = self._program(_PROGRAMS, tgid.to_bytes(4, "little"))
        return 0 if found is None else found["own"]

    def running_programs(self) -> set[int]:
        """All numbers of the programs that processes run."""
        if not self._maps:
            return set()
        values = [unpack(self._struct, value) for _, value in self._maps[_PROGRAMS].items()]
        return {each[name] for each in values for name in ("own", "shared", "libraries")}

    def renew_program(self, tgid: int, own: int, another: bool) -> None:
        """Give a process that still runs that program numbers of its own: its rules do not hold.

        `another`: nor do those for the executable's code.
        """
        key = tgid.to_bytes(4, "little")
        known = self._program(_PROGRAMS, key)
        if known is None or known["own"] != own:
            return
        names = ["own", "libraries", *(["shared"] if another else [])]
        known |= {name: secrets.randbits(64) for name in names}
        value = pack(self._struct, **known)
        with contextlib.suppress(OSError):  # it has ended
            self._maps[_BY_NUMBER].update(known["own"].to_bytes(8, "little"), value)
            self._maps[_PROGRAMS].update(key, value, only_existing=True)

    def unalike(self, shared: int) -> None:
        """Each process that runs this executable from now on has rules of its own for libraries."""
        if self._maps:
            with contextlib.suppress(OSError):  # there are too many: they get them one by one
                self._maps[_UNALIKE].update(shared.to_bytes(8, "little"), b"\1")

    def close(self) -> None:
        """Let go of the maps: their descriptors are about to be closed."""
        self._maps = {}

    def _next_epoch(self) -> None:
        """No CPU is to walk by rules that it has kept."""
        self._epoch += 1
        self._maps[_EPOCH].update(_FIRST, self._epoch.to_bytes(8, "little"))

    def _program(self, name: str, key: bytes) -> dict[str, int] | None:
        """A value of one of the maps of programs."""
        value = self._maps[name].lookup(key) if self._maps else None
        return None if value is None else unpack(self._struct, value)
