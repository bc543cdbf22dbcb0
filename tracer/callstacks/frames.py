"""Symbolized frames of call stacks: function, module, and where a stack breaks off."""

import ctypes
import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tracer.callstacks.stacks import Place, Stack
from tracer.callstacks.symbols import Symbols
from tracer.procfs.maps import read_maps
from tracer.symbolizing.perf_maps import AGAIN_S, PerfMaps
from tracer.symbolizing.rule import Rule

_MANGLED = re.compile(r"_Z(NK?)?(?=\d)")  # Itanium C++ ABI, 5.1
_MOST_NAMELESS = 1024
_LENGTH = re.compile(r"[1-9]\d{0,3}")
VDSO = (1 << 32) - 1  # stands for its image, as if it were a file

NO_FRAME_POINTERS = "no frame pointers"
TRUNCATED = "truncated"

# Thread entry points: a stack that ends in none of these was not walked to its start.
_BEGINNINGS = frozenset(
    (
        *("_start", "__libc_start_main", "__libc_start_call_main", "_dl_start_user", "_dl_start"),
        *("__libc_start_main_impl", "__libc_start_main_alias_2", "generic_start_main"),
        *("clone", "__clone", "clone3", "__clone3", "start_thread", "thread_start"),
        *("ret_from_fork", "ret_from_fork_asm", "_rt0_amd64_linux", "_rt0_amd64", "runtime.goexit"),
        *("runtime.goexit.abi0", "runtime.mstart", "__vfork", "vfork"),
    )
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A code location by name; names are raw, not printable."""

    kernel: bool
    function: str  # "" where there is no symbol
    offset: int  # bytes into it
    module: str  # path, or "[kernel]", "[vdso]", "[jit]", "[anon]", …; "" where nothing is known
    module_offset: int | None  # in the file; None where no file is mapped
    build_id: str = ""
    file: str = ""  # source file and line, where the file's DWARF has them
    line: int = 0

    def text(self) -> str:
        """The shortest identification: the function, or module and offset."""
        if self.function:
            return _plain(self.function)
        name = self.module.rpartition("/")[2] or "(unknown)"
        return name if self.module_offset is None else f"{name}+{self.module_offset:#x}"


def _plain(name: str) -> str:
    """A plain name out of a mangled one, as far as that is easy: _ZN3app4fillEi is app::fill."""
    match = _MANGLED.match(name)
    if match is None:
        return name
    rest, words = name[match.end() :], []
    while (digits := _LENGTH.match(rest)) is not None:
        end = digits.end() + int(digits[0])
        if end > len(rest):
            return name
        words.append(rest[digits.end() : end])
        rest = rest[end:]
        if not match[1]:
            break
    # Templates and operators are left to the demangler (source_lines.py).
    whole = words and all(words) and (not match[1] or rest.startswith("E"))
    return "::".join(words) if whole else name


class FrameNames:
    """Symbolizes places (tracer.callstacks.stacks), each once."""

    def __init__(self, symbols: Symbols, perf_maps: PerfMaps) -> None:
        self._symbols = symbols
        self._lookup = symbols.lookup
        self._perf_maps = perf_maps
        self._known: dict[Place, Frame] = {}
        self._nameless: list[Place] = []  # of JIT code; its perf map may name it later
        self._asked_s = 0.0  # time.monotonic()

    def frame(self, place: Place) -> Frame:
        """The name of a place, as far as it is known: files are read elsewhere, meanwhile."""
        known = self._known.get(place)
        if known is None:
            known = self._find(place)
            if self.settled(place):
                self._known[place] = known
        return known

    def settled(self, place: Place) -> bool:
        """Whether what is known of a place is final."""
        if place in self._known or place.kernel:
            return True
        if place.tgid:  # of JIT code the perf map may name it later
            address = _code_at(place)
            found = self._perf_maps.at(place.tgid, address)
            return found is not None or self._perf_maps.ended(place.tgid, address)
        if not (file := _file(place)):
            return True
        whole = self._lookup.settled("functions", file, _offset(place))
        return whole and (file == VDSO or self._lookup.settled("build_id", file))

    def ask(self, places: Iterable[Place]) -> None:
        """Request names of these places that are not known, many at a time."""
        files: dict[int, list[int]] = {}
        for place in places:
            if place in self._known or place.kernel:
                continue
            if place.tgid:
                self._perf_maps.ask(place.tgid, [_code_at(place)])
            elif file := _file(place):
                files.setdefault(file, []).append(_offset(place))
        for file, offsets in files.items():
            self._lookup.ask("functions", file, dict.fromkeys(offsets))

    def wait(self) -> None:
        """Wait briefly for what was requested."""
        self._lookup.wait_briefly()

    def found(self, place: Place) -> None:
        """Name JIT code as soon as it is seen: its process may end, or replace the code."""
        if place.tgid and not self.frame(place).function and len(self._nameless) < _MOST_NAMELESS:
            self._nameless.append(place)

    def again(self, *, last: bool = False) -> None:
        """Ask once more for what `found` had no name for; cheap, for a loop.

        `last`: the trace is over, and the processes may end any moment.
        """
        now = time.monotonic()
        if not self._nameless or (now - self._asked_s < AGAIN_S and not last):
            return
        self._asked_s = now
        if last:
            self._perf_maps.hurry()
        self._nameless = [
            place
            for place in self._nameless
            if not self.frame(place).function
            and not self._perf_maps.ended(place.tgid, _code_at(place))
        ]
        if last:
            self.wait()

    def why(self, place: Place) -> str:
        """Why a place has no function: because its file was given up; "" where it was not."""
        failed = self._perf_maps.failed if place.tgid else self._lookup.failed
        return failed.get(place.tgid or _file(place), "")

    def kernel_names(self, addresses: Sequence[int]) -> list[str]:
        """The functions of kernel addresses, "" where unknown."""
        found = [self._symbols.kernel_function(address) for address in addresses]
        return [each[0] if each else "" for each in found]

    def rule(self, place: Place) -> Rule | None:
        """The unwind rule of the code there; None where there is none, or it is not known yet."""
        return self._lookup.rule(place.file, _offset(place)) if place.file else None

    def has_rule(self, place: Place) -> bool:
        """Whether that answer is final."""
        return not place.file or self._lookup.settled("rules", place.file, _offset(place))

    def ask_rules(self, places: Iterable[Place]) -> None:
        """Request the unwind rules of these places; wait for them briefly."""
        files: dict[int, list[int]] = {}
        for place in places:
            if place.file:
                files.setdefault(place.file, []).append(_offset(place))
        for file, offsets in files.items():
            self._lookup.ask("rules", file, dict.fromkeys(offsets))
        self._lookup.wait_briefly()

    def note(self, places: Sequence[Place], stack: Stack) -> tuple[str, int]:
        """Why a stack is not whole, and of which frame the caller is missing; "" where it is."""
        if stack.truncated:
            return TRUNCATED, len(stack.frames) - 1
        suspects = [stack.gap] if stack.gap >= 0 else []
        suspects += [] if stack.ended else [len(stack.frames) - 1]
        for index in suspects:
            frame = self.frame(places[stack.frames[index]])
            if not frame.kernel and frame.function not in _BEGINNINGS:
                return NO_FRAME_POINTERS, index
        return "", -1

    def _find(self, place: Place) -> Frame:
        # The call is before the address to which it returns, which may be another function's.
        back = 1 if place.returns else 0
        at = place.offset - back
        if place.kernel:
            function, offset = self._symbols.kernel_function(at) or ("", -back)
            function, _, module = function.partition(" ")
            return Frame(True, function, offset + back, module or "[kernel]", None)
        if place.tgid:
            compiled = self._perf_maps.at(place.tgid, _code_at(place))
            if compiled:
                return Frame(False, compiled[0], compiled[1] + back, "[jit]", None)
            in_file = place.name.startswith("/")
            return Frame(False, "", 0, place.name, place.offset if in_file else None)
        if not (file := _file(place)):
            in_file = place.name.startswith("/")
            return Frame(False, "", 0, place.name, place.offset if in_file else None)
        function, offset = self._lookup.function(file, at) or ("", -back)
        build_id = self._lookup.build_id(file) if file != VDSO else ""
        return Frame(False, function, offset + back, place.name, place.offset, build_id)


def _offset(place: Place) -> int:
    """The offset to look up: a call is before its return address."""
    return place.offset - place.returns


def _code_at(place: Place) -> int:
    """The address to look up, of JIT code."""
    return place.address - place.returns


def _file(place: Place) -> int:
    """The number of the file to look in; 0: none or unknown."""
    if place.name == "[vdso]":
        return VDSO
    return place.file if place.name.startswith("/") else 0


def opening_vdso(open_file: Callable[[int], int]) -> Callable[[int], int]:
    """What opens files by number, our own vdso among them: all processes have the same."""

    def open_any(number: int) -> int:
        return _open_vdso() if number == VDSO else open_file(number)

    return open_any


def _open_vdso() -> int:
    for mapping in read_maps(os.getpid()):
        if mapping.path == "[vdso]":
            descriptor = os.memfd_create("vdso", os.MFD_CLOEXEC)
            os.write(descriptor, ctypes.string_at(mapping.start, mapping.end - mapping.start))
            return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "[vdso]")
