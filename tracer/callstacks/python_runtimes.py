"""Tells the kernel which programs are a CPython, and where its runtime is.

A file that is mapped as code is asked about once (tracer.symbolizing.python_runtime). What is found
is for all processes that run the executable, as unwind rules are (docs/decisions/0012), so that the
second one has Python's frames from its start.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tracer.callstacks.kernel_rules import Program
from tracer.procfs.maps import Mapping
from tracer.spaces.code_files import CodeMapping
from tracer.symbolizing.runtime import FREE_THREADED, MEMBERS, NONE, READ_OF_CODE, Runtime

_MOST_PENDING, _PATIENCE_S = 4096, 10.0
_MOST_PROGRAMS = 1 << 14
_MOST_FILES = 1 << 14
_MASK = (1 << 64) - 1


class Runtimes(Protocol):
    """What files say of the CPython in them; FrameNames is one."""

    def ask_runtime(self, file: int, offset: int) -> None:
        """Request what `runtime` will be asked for."""

    def has_runtime(self, file: int, offset: int) -> bool:
        """Whether the answer of `runtime` is final."""

    def runtime(self, file: int, offset: int) -> Runtime | None:
        """The CPython of a file as seen from an offset; None: none, or not known yet."""


class _Mapped(NamedTuple):
    tgid: int
    start: int
    file: int
    offset: int
    key: int  # program.file of what runs that file


class PythonRuntimes:
    """The CPythons of a run."""

    def __init__(
        self,
        runtimes: Runtimes,
        program: Callable[[int], Program | None],
        runs: Callable[[int], int],
        install: Callable[[int, dict[str, int]], None],
    ) -> None:
        """`program`, `runs` and `install_python` as in kernel_rules.Kernel."""
        self._runtimes = runtimes
        self._program, self._runs, self._install = program, runs, install
        self._pending: dict[_Mapped, float] = {}  # until when they wait, by time.monotonic()
        self._none: set[tuple[int, int]] = set()  # files that have none
        self._programs: dict[int, int] = {}  # by process: the number of its program, last seen
        self._mapped: dict[int, _Mapped] = {}  # by process that is a CPython
        self._first: dict[int, int] = {}  # by key: the offset of the first mapping seen
        self._installed: dict[int, dict[str, int]] = {}  # by number of a program
        self.refused: dict[str, str] = {}  # versions, and why their frames are not shown

    def mapped(self, tgid: int, mapping: CodeMapping) -> None:
        """A process has mapped code of a file."""
        file = mapping.file
        offset = mapping.offset if isinstance(mapping, Mapping) else mapping.pgoff
        if (file, offset) in self._none:
            return
        key = mix(mix(0, mapping.inode), mapping.device)
        mapped = _Mapped(tgid, mapping.start, file, offset, key)
        if mapped == self._mapped.get(tgid) or mapped in self._pending:
            return
        self._ask(mapped)

    def runs(self, tgid: int, own: int) -> None:
        """A stack shows the number of a process's program, which may end before it is asked."""
        if self._programs.get(tgid) != own:
            self._programs.pop(tgid, None)
            self._programs[tgid] = own
            if len(self._programs) > _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]

    def renewed(self, tgid: int) -> None:
        """A process's program has another number from now on."""
        self._programs.pop(tgid, None)
        mapped = self._mapped.pop(tgid, None)
        if mapped is not None:
            self._ask(mapped)

    def _ask(self, mapped: _Mapped) -> None:
        self._pending[mapped] = time.monotonic() + _PATIENCE_S
        self._runtimes.ask_runtime(mapped.file, mapped.offset)
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]

    def turn(self) -> None:
        """Install what is known by now; cheap where there is nothing."""
        for mapped, until in list(self._pending.items()):
            if time.monotonic() > until:  # it ended before its program was known
                del self._pending[mapped]
                continue
            if not self._runtimes.has_runtime(mapped.file, mapped.offset):
                continue
            runtime = self._runtimes.runtime(mapped.file, mapped.offset)
            if runtime is None:
                if len(self._none) >= _MOST_FILES:
                    self._none.clear()
                self._none.add((mapped.file, mapped.offset))
            elif not runtime.members:
                self._refuse(runtime)
            else:
                # Where it is the executable's own, which its first mapping begins; else no program
                # has that key.
                if self._first.setdefault(mapped.key, mapped.offset) == mapped.offset:
                    self._put(mapped.key, self._value(runtime, runtime.distance, inside=True))
                if not self._settle(mapped, runtime):
                    continue
            del self._pending[mapped]

    def _settle(self, mapped: _Mapped, runtime: Runtime) -> bool:
        """Install a runtime for the program that a process runs; False where that is not known."""
        own = self._runs(mapped.tgid) or self._programs.get(mapped.tgid, 0)
        program = self._program(own) if own else None
        if program is None:
            return False
        inside = program.has(mapped.start)
        base = program.code_start if inside else program.mmap_base
        if len(self._mapped) >= _MOST_PROGRAMS:
            del self._mapped[next(iter(self._mapped))]
        self._mapped[mapped.tgid] = mapped
        number = program.shared if inside else program.libraries
        address = mapped.start + runtime.distance - base
        self._put(number, self._value(runtime, address, inside=inside))
        return True

    def _value(self, runtime: Runtime, address: int, *, inside: bool) -> dict[str, int]:
        """A struct python_runtime."""
        members = dict(zip(MEMBERS, runtime.members, strict=True))
        read = [members[name] for name in READ_OF_CODE if members[name] != NONE]
        first, last = min(read) & ~7, max(read)
        return {
            "address": address & _MASK,
            "in_executable": int(inside),
            "version": runtime.version,
            **members,
            "code_from": first,
            "code_bytes": last + 8 - first,
        }

    def _put(self, number: int, value: dict[str, int]) -> None:
        if self._installed.get(number) != value:
            if len(self._installed) >= _MOST_PROGRAMS:
                del self._installed[next(iter(self._installed))]
            self._installed[number] = value
            self._install(number, value)
        while len(self._first) > _MOST_FILES:
            del self._first[next(iter(self._first))]

    def _refuse(self, runtime: Runtime) -> None:
        version = f"{runtime.version >> 8}.{runtime.version & 0xFF}"
        free = runtime.why == FREE_THREADED
        self.refused[version + ("t" if free else "")] = (
            "a free-threaded build" if free else "newer than this program knows"
        )


def mix(number: int, value: int) -> int:
    """bpf/stack.h: stack_mix()."""
    number = ((number ^ value) * 0x9E3779B97F4A7C15) & _MASK
    return number ^ number >> 29
