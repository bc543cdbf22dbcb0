"""Symbolized frames of call stacks: function, module, and where a stack breaks off."""

import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracer.callstacks.code_versions import CodeVersions
from tracer.callstacks.locations import VDSO, Location
from tracer.callstacks.stacks import PYTHON, Stack
from tracer.callstacks.symbols import Symbols
from tracer.callstacks.unwinding import End
from tracer.procfs.maps import read_maps
from tracer.symbolizing.lookup import WAIT_S
from tracer.symbolizing.perf_maps import PerfMaps
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.symbolizing.runtime import Runtime

_MANGLED = re.compile(r"_Z(NK?)?(?=\d)")  # Itanium C++ ABI, 5.1
_LOCALS = ".<locals>"  # of a qualified name (PEP 3155)
_LENGTH = re.compile(r"[1-9]\d{0,3}")

_UNKNOWN = CodeRule(Rule(Cfa.FRAME), after_call=True, bare_page=False)

NO_FRAME_POINTERS = "no frame pointers"
TRUNCATED = "truncated"
# Of walks by unwind rules:
NO_RULE = "no unwind rule"  # that can be followed: the CFA is by another register, say
NO_RETURN_ADDRESS = "no return address"  # what lies where it should be is none
UNREADABLE = "unreadable stack"
COPY_DROPPED = "copy dropped"
COPY_TOO_SHORT = "copy too short"
REPLACED = "code replaced"  # the walk was by the rules of what was mapped there before
_NOTES = {
    End.NO_COPY: COPY_DROPPED,
    End.NO_RULE: COPY_DROPPED,
    End.SHORT_COPY: COPY_TOO_SHORT,
    End.REPLACED: REPLACED,
}

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
    file: str = ""  # source file and line, where the file's DWARF has them; of Python code always
    line: int = 0
    python: bool = False

    def text(self) -> str:
        """The shortest identification: the function, or module and offset."""
        if self.python:
            return self.function.replace(_LOCALS, "")
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
    """Symbolizes locations (tracer.callstacks.stacks), each once."""

    def __init__(self, symbols: Symbols, perf_maps: PerfMaps) -> None:
        self.native = False  # keep the frames of the interpreter where Python's are known
        self._symbols = symbols
        self._lookup = symbols.lookup
        self._perf_maps = perf_maps
        self.versions = CodeVersions(perf_maps, self.wait)  # of JIT-compiled code
        self._known: dict[Location, Frame] = {}

    def frame(self, location: Location) -> Frame:
        """The name of a location, as far as it is known: files are read elsewhere, meanwhile."""
        known = self._known.get(location)
        if known is None:
            known = self._find(location)
            if self.settled(location):
                self._known[location] = known
        return known

    def settled(self, location: Location) -> bool:
        """Whether what is known of a location is final."""
        if location in self._known or location.kernel:
            return True
        if location.tgid:  # of JIT code the perf map may say more later
            return self.versions.settled(location)
        if not (file := location.file_with_code):
            return True
        whole = self._lookup.settled("functions", file, location.looked_up)
        return whole and (file == VDSO or self._lookup.settled("build_id", file))

    def ask(self, locations: Iterable[Location]) -> None:
        """Request names of these locations that are not known, many at a time."""
        files: dict[int, list[int]] = {}
        for location in locations:
            if location in self._known or location.kernel:
                continue
            if location.tgid:
                self._perf_maps.ask(location.tgid, [location.address - location.returns])
            elif file := location.file_with_code:
                files.setdefault(file, []).append(location.looked_up)
        for file, offsets in files.items():
            self._lookup.ask("functions", file, dict.fromkeys(offsets))

    def wait(self) -> None:
        """Wait briefly for what was requested."""
        self._lookup.wait_briefly()

    def why(self, location: Location) -> str:
        """Why a location has no function: because its file was given up; "" where it was not."""
        if location.tgid:
            return self.versions.why(location)
        return self._lookup.failed.get(location.file_with_code, "")

    def kernel_names(self, addresses: Sequence[int]) -> list[str]:
        """The functions of kernel addresses, "" where unknown."""
        found = [self._symbols.kernel_function(address) for address in addresses]
        return [each[0] if each else "" for each in found]

    def code(self, location: Location) -> CodeRule | None:
        """What is known of the code there; None: nothing, or not yet."""
        if location.kernel or location.tgid:
            return None
        return self.code_at(location.file_with_code, location.looked_up)

    def code_at(self, file: int, offset: int) -> CodeRule | None:
        """The same at an offset of a file, 0: one that is not known.

        In a file that cannot be read, or has no such code: that there may be frame pointers.
        """
        if file and not self._lookup.settled("rules", file, offset):
            return None
        return (self._lookup.rule(file, offset) if file else None) or _UNKNOWN

    def ask_runtime(self, file: int, offset: int) -> None:
        """Request what `runtime` will be asked for."""
        self._lookup.ask("runtimes", file, [offset])

    def has_runtime(self, file: int, offset: int) -> bool:
        """Whether the answer of `runtime` is final."""
        return self._lookup.settled("runtimes", file, offset)

    def runtime(self, file: int, offset: int) -> Runtime | None:
        """The CPython of a file as seen from an offset; None: none, or not known yet."""
        return self._lookup.runtime(file, offset)

    def has_rule(self, location: Location) -> bool:
        """Whether the answer of `code` is final."""
        file = location.file_with_code
        return not file or self._lookup.settled("rules", file, location.looked_up)

    def ask_rules(self, locations: Iterable[Location]) -> None:
        """Request the unwind rules of these locations; wait briefly for them."""
        files: dict[int, list[int]] = {}
        for location in locations:
            if file := location.file_with_code:
                files.setdefault(file, []).append(location.looked_up)
        self.ask_codes(files, WAIT_S)

    def ask_codes(self, files: Mapping[int, Iterable[int]], wait_s: float) -> None:
        """The same of offsets, by file; wait so long for them."""
        for file, offsets in files.items():
            self._lookup.ask("rules", file, dict.fromkeys(offsets))
        self._lookup.wait_briefly(wait_s)

    def note(self, locations: Sequence[Location], stack: Stack) -> tuple[str, int]:
        """Why a stack is not whole, and of which frame the caller is missing; "" where it is."""
        last = len(stack.frames) - 1
        if stack.truncated:
            return TRUNCATED, last
        if stack.end:
            note = "" if stack.ended else self._why(locations[stack.frames[last]], stack.end)
            return note, last if note else -1
        suspects = [stack.gap] if stack.gap >= 0 else []
        suspects += [] if stack.ended else [last]
        for index in suspects:
            frame = self.frame(locations[stack.frames[index]])
            if not frame.kernel and frame.function not in _BEGINNINGS:
                return NO_FRAME_POINTERS, index
        return "", -1

    def _why(self, last: Location, end: End) -> str:
        """Why a walk by rules ended at this frame; "" where it is a beginning all the same."""
        if end in _NOTES:
            return _NOTES[end]
        frame = self.frame(last)
        if frame.kernel or frame.function in _BEGINNINGS:
            return ""
        code = self.code(last)
        if end == End.NO_FRAME and not last.tgid:
            return ""  # a frame pointer of 0 marks the outermost frame (psABI, 3.4.1): ld.so's
        if last.tgid or (code is not None and code.rule.cfa == Cfa.FRAME):
            return NO_FRAME_POINTERS
        if code is not None and code.rule.cfa == Cfa.NONE:
            return NO_RULE
        return UNREADABLE if end == End.UNREADABLE else NO_RETURN_ADDRESS

    def _find(self, location: Location) -> Frame:
        # The call is before the address to which it returns, which may be another function's.
        back = 1 if location.returns else 0
        at = location.offset - back
        if location.function or location.name == PYTHON:
            named = location.function, 0, location.name, None, ""
            if not location.function:
                return Frame(False, *named)
            return Frame(False, *named, location.name, location.offset, python=True)
        if location.kernel:
            function, offset = self._symbols.kernel_function(at) or ("", -back)
            function, _, module = function.partition(" ")
            return Frame(True, function, offset + back, module or "[kernel]", None)
        if location.tgid:
            compiled = self.versions.name(location)
            if compiled:
                name, into = compiled
                at = into + back
                return Frame(False, name.function, at, "[jit]", None, "", name.file, name.line)
            in_file = location.name.startswith("/")
            return Frame(False, "", 0, location.name, location.offset if in_file else None)
        if not (file := location.file_with_code):
            in_file = location.name.startswith("/")
            return Frame(False, "", 0, location.name, location.offset if in_file else None)
        function, offset = self._lookup.function(file, at) or ("", -back)
        build_id = self._lookup.build_id(file) if file != VDSO else ""
        return Frame(False, function, offset + back, location.name, location.offset, build_id)


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
