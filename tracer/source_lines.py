"""Source lines of code, from DWARF, and names as the programmer wrote them.

The files are other users', and what reads DWARF is large: it works in a process of its own,
as nobody, with little memory and time. Source lines need the package `symbolic` (from PyPI);
without it there are none. Names of C++ and old Rust are undone by libstdc++, which bcc needs
anyway.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tracer import elf
from tracer.frames import Frame
from tracer.stacks import Place

_NOBODY = 65534
_SECONDS = 60  # of processor time
_MEMORY = 4 << 30
_LARGEST = 1 << 30  # a file read for its DWARF
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tracer.source_lines import main; main()"
)


@dataclass
class SourceLines:
    """What was found; truthy if there is anything."""

    lines: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # as the programmer wrote them
    lacking: str = ""  # why there are no lines

    def __bool__(self) -> bool:
        return bool(self.lines or self.names)

    def complete(self, frame: Frame, place: Place) -> Frame:
        """The frame with what was found of it."""
        file, line = self.lines.get((place.file, place.offset - place.returns), ("", 0))
        name = self.names.get(frame.function, frame.function)
        return replace(frame, function=name, file=file, line=line)


def find(
    places: Iterable[Place],
    functions: Iterable[str],
    open_file: Callable[[int], int],
) -> SourceLines:
    """Look up the source lines of `places`, and what the names `functions` mean.

    `open_file` as CodeFiles.open, by Place.file. Whatever goes wrong, there is less in the answer.
    """
    wanted: dict[int, list[int]] = {}
    for place in places:
        if place.file:
            wanted.setdefault(place.file, []).append(place.offset - place.returns)
    mangled = sorted({name for name in functions if name.startswith(("_Z", "_R"))})
    if not wanted and not mangled:
        return SourceLines()
    files: dict[int, tuple[int, list[int]]] = {}
    try:
        for number, offsets in wanted.items():
            found = elf.open_for_lines(partial(open_file, number), offsets)
            if found is not None:
                files[number] = found
        answer = _ask({"files": files, "names": mangled}, [fd for fd, _ in files.values()])
    finally:
        for descriptor, _ in files.values():
            os.close(descriptor)
    return _found(wanted, answer)


def _ask(request: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _START, json.dumps(sys.path)],
            input=json.dumps(request).encode("utf-8", "surrogateescape"),
            capture_output=True,
            pass_fds=descriptors,
            timeout=4 * _SECONDS,
            check=False,
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def _found(wanted: Mapping[int, Sequence[int]], answer: Any) -> SourceLines:
    found = SourceLines(names=dict(answer.get("names", {})), lacking=str(answer.get("lacking", "")))
    for number, lines in answer.get("lines", {}).items():
        for offset, (file, line) in zip(wanted[int(number)], lines, strict=False):
            if line:
                found.lines[int(number), offset] = str(file), int(line)
    return found


# -- the process that reads them ---------------------------------------------------------


def main() -> None:
    """Answer the request on standard input in JSON on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = json.load(sys.stdin)
    archive, lacking = _archive()
    library = _libstdcxx()
    _become_nobody()
    lines = {}
    if archive is not None:
        for number, (fd, addresses) in request["files"].items():
            try:
                lines[number] = _lines(archive, fd, addresses)
            except Exception:  # whatever symbolic says of a strange file
                continue
    names = {name: plain for name in request["names"] if (plain := _demangled(library, name))}
    json.dump({"lines": lines, "names": names, "lacking": lacking}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


def _archive() -> tuple[Any, str]:
    """symbolic's class of files with debug information; or None, and why."""
    try:
        from symbolic.debuginfo import Archive
    except ImportError:
        return None, "the package symbolic is not installed"
    return Archive, ""


def _become_nobody() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _lines(archive_type: Any, fd: int, addresses: Sequence[int]) -> list[tuple[str, int]]:
    """The source file and line of each address in a file, ("", 0) where not known."""
    with os.fdopen(fd, "rb", closefd=False) as file:
        data = file.read(_LARGEST)
    (own,) = list(archive_type.from_bytes(data).iter_objects())[:1]
    cache = own.make_symcache()
    result = []
    for address in addresses:
        # Of inlined calls the outermost, which is in the function that the symbol names.
        found = cache.lookup(address) if address >= 0 else []
        last = found[-1] if found else None
        result.append((last.full_path, last.line) if last is not None and last.line else ("", 0))
    return result


def _libstdcxx() -> "ctypes.CDLL | None":
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return None
    library.__cxa_demangle.restype = ctypes.c_void_p
    library.__cxa_demangle.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3]
    return library


def _demangled(library: "ctypes.CDLL | None", name: str) -> str:
    """A name as the programmer wrote it; "" where it is none."""
    if library is None:
        return ""
    status = ctypes.c_int()
    raw = name.encode("utf-8", "surrogateescape")
    found = library.__cxa_demangle(raw, None, None, ctypes.byref(status))
    return ctypes.string_at(found).decode("utf-8", "surrogateescape") if found else ""
