"""The unprivileged process that reads targets' files: ELF, DWARF, perf maps, mangled names.

It is a fresh interpreter as nobody, without capabilities or a way to new ones, that may open
and write nothing: it has the descriptors that it is given, bounded memory, and limited processor
time for each question. An exploit in a file gains that, and answers that
`lookup` distrusts.
"""

import contextlib
import ctypes
import hashlib
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tracer.symbolizing import elf
from tracer.symbolizing.messages import close_all, packed, receive
from tracer.symbolizing.perf_map import PerfMap
from tracer.symbolizing.python_runtime import runtimes
from tracer.symbolizing.rule import CodeRule
from tracer.symbolizing.runtime import Runtime

NAMES_S, LINES_S = 10, 60  # of processor time for one question: about names or rules, about lines
_MOST_S = 660  # … in all, whatever becomes of us: the tracer gives up before
_NAMES_BYTES, _LINES_BYTES = 1 << 30, 4 << 30  # of address space
_NOBODY = 65534
_MOST_FILES = 256  # whose descriptors, and call frame information, are kept
_KEPT_ANYWAY = 2  # files whose symbol tables are kept, however large
_MOST_TEXT = 1 << 19  # bytes of names in one answer; then they are cut
_CUT = 64  # characters
_MOST_MAPS = 64  # perf maps that are kept
_MOST_BYTES = 1 << 27  # of symbol tables that are kept, and of perf maps
_LARGEST = 1 << 30  # bytes of a file that is read for its DWARF
_PART = 1 << 20  # bytes that are read together for a digest
# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000  # linux/sched.h
_CAPABILITY_VERSION_3 = 0x20080522

Found = tuple[str, int] | None


class _File:
    """A file by its descriptors, its own and its debug file's, and what was read of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptors = [descriptor]
        self._functions: elf.Functions | None = None
        self._rules: elf.Rules | None = None
        self._cache: Any = None  # symbolic's
        self._named = self._ruled = False

    def size(self) -> int:
        """Bytes of its symbol table, and of its list of entries, as far as these are kept."""
        return sum(each.size() for each in (self._functions, self._rules) if each is not None)

    def has_debug(self, descriptor: int) -> bool:
        """Its debug file, which is found once its build ID is known; whether that is news."""
        if len(self._descriptors) == 1:
            self._descriptors.append(descriptor)
            return True
        return False

    def forget(self) -> None:
        """Read its tables anew when they are asked for next."""
        self._functions = self._rules = self._cache = None
        self._named = self._ruled = False

    def functions(self) -> elf.Functions | None:
        if not self._named:
            self._named = True
            self._functions = elf.functions(self._open, self._open_debug())
        return self._functions

    def rules(self) -> elf.Rules | None:
        if not self._ruled:
            self._ruled = True
            self._rules = elf.unwinding(self._open)
        return self._rules

    def build_id(self) -> str:
        return elf.build_id(self._open)

    def digest(self) -> str:
        """The SHA-256 of its content in hexadecimal."""
        digest, at = hashlib.sha256(), 0
        while part := os.pread(self._descriptors[0], _PART, at):
            digest.update(part)
            at += len(part)
        return digest.hexdigest()

    def runtimes(self, offsets: Sequence[int]) -> list[Runtime | None]:
        return runtimes(self._open, offsets)

    def lines(self, archive: Any, offsets: Sequence[int]) -> list[tuple[str, int]]:
        """The source file and line of each offset, ("", 0) where not known."""
        addresses = elf.addresses(self._open, offsets)
        if addresses is None:
            return []
        if self._cache is None:
            with os.fdopen(os.dup(self._descriptors[-1]), "rb") as file:
                file.seek(0)
                data = file.read(_LARGEST)
            (own,) = list(archive.from_bytes(data).iter_objects())[:1]
            self._cache = own.make_symcache()
        result = []
        for address in addresses:
            # Of inlined calls the outermost, which is in the function that the symbol names.
            found = self._cache.lookup(address) if address >= 0 else []
            last = found[-1] if found else None
            result.append((last.full_path, last.line) if last and last.line else ("", 0))
        return result

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        self.forget()

    def _open(self) -> int:
        return os.dup(self._descriptors[0])

    def _open_debug(self) -> elf.Opener | None:
        return partial(os.dup, self._descriptors[1]) if len(self._descriptors) > 1 else None


class Server:
    """Answers questions, one after another; each names what it is about."""

    def __init__(self, archive: Any, demangle: Callable[[str], str]) -> None:
        """`archive`: symbolic's class of files with debug information, if there is one."""
        self._archive = archive
        self._demangle = demangle
        # Three for each: its own, its debug file's, and one for what is read of it on demand.
        room, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_files = max(1, min(_MOST_FILES, (room - 16) // 3))
        self._files: dict[int, _File] = {}  # by number, the last asked about at the end
        self._maps: dict[int, PerfMap] = {}  # by process, likewise
        self._questions: dict[str, Callable[[Any, list[int]], Any]] = {
            "functions": self._ask_functions,
            "rules": self._ask_rules,
            "build_id": self._ask_build_id,
            "digest": self._ask_digest,
            "runtimes": self._ask_runtimes,
            "lines": self._ask_lines,
            "perf_map": self._ask_perf_map,
            "names": self._ask_names,
        }

    def answer(self, question: Any, descriptors: list[int]) -> Any:
        """The answer to a question; raises whatever the files make the parsers raise.

        The descriptors are kept, or closed.
        """
        try:
            try:
                return self._questions[question["ask"]](question, descriptors)
            except MemoryError:  # others' tables are no reason
                for file in self._files.values():
                    file.forget()
                self._maps.clear()
                return self._questions[question["ask"]](question, descriptors)
        finally:
            close_all(descriptors)

    # -- files: {"file": its number, "offsets": […]}, with its descriptor if it could be opened,
    # and its debug file's ------------------------------------------------------------------

    def _ask_functions(self, question: Any, descriptors: list[int]) -> dict[str, Any]:
        file = self._file(question, descriptors)
        functions = file.functions() if file is not None else None
        return answer_of(functions.at(at) if functions else None for at in question["offsets"])

    def _ask_rules(self, question: Any, descriptors: list[int]) -> list[list[Any] | None]:
        file = self._file(question, descriptors)
        rules = file.rules() if file is not None else None
        if rules is None:
            return [None] * len(question["offsets"])
        return [_sent(found) for found in rules.ask(question["offsets"])]

    def _ask_build_id(self, question: Any, descriptors: list[int]) -> str:
        file = self._file(question, descriptors)
        return file.build_id() if file is not None else ""

    def _ask_digest(self, question: Any, descriptors: list[int]) -> str:
        file = self._file(question, descriptors)
        return file.digest() if file is not None else ""

    def _ask_runtimes(self, question: Any, descriptors: list[int]) -> list[list[Any] | None]:
        file = self._file(question, descriptors)
        offsets = question["offsets"]
        if file is None:
            return [None] * len(offsets)
        return [_sent_runtime(each) for each in file.runtimes(offsets)]

    def _ask_lines(self, question: Any, descriptors: list[int]) -> dict[str, Any]:
        file = self._file(question, descriptors)
        if file is None or self._archive is None:
            return answer_of([])
        for other in self._files.values():
            if other is not file:
                other.forget()
        try:
            return answer_of(file.lines(self._archive, question["offsets"]))
        except MemoryError:
            raise
        except Exception:  # whatever symbolic says of a strange file: it has none
            return answer_of([])

    def _file(self, question: Any, descriptors: list[int]) -> _File | None:
        number = question["file"]
        file = self._files.pop(number, None)
        if file is None:
            if not descriptors:
                return None
            file = _File(descriptors.pop(0))
        elif descriptors:
            os.close(descriptors.pop(0))
        if descriptors and file.has_debug(descriptors[0]):
            descriptors.clear()
        self._files[number] = file
        if len(self._files) > self._most_files:
            self._files.pop(next(iter(self._files))).close()
        kept = sum(each.size() for each in self._files.values())
        for each in list(self._files.values())[:-_KEPT_ANYWAY]:
            if kept > _MOST_BYTES:
                kept -= each.size()
                each.forget()
        return file

    # -- perf maps: {"pid", "fresh": it is another file, "last": all of it is there now,
    # "sizes": [[check, bytes it had then], …], "new": [address, …], and "old": those of which only
    # what came "after" a check is wanted}, with its descriptor if it is to be read ---------------

    def _ask_perf_map(self, question: Any, descriptors: list[int]) -> dict[str, Any]:
        pid = question["pid"]
        known = self._maps.pop(pid, None)
        if known is None and not question["fresh"] and not descriptors:
            return {"forgotten": True}
        if known is None or question["fresh"]:
            known = PerfMap()
        self._maps[pid] = known
        if descriptors:
            known.read(descriptors[0], question["sizes"], last=question["last"])
        while len(self._maps) > 1 and (
            len(self._maps) > _MOST_MAPS or sum(m.size for m in self._maps.values()) > _MOST_BYTES
        ):
            del self._maps[next(iter(self._maps))]
        if known.why:
            return {"why": known.why}
        new, old = (np.array(question[which], np.uint64) for which in ("new", "old"))
        changes = known.changes(new) + known.changes(old, question["after"])
        found = answer_of((name, into) for each in changes for _, name, into in each or [])
        numbers = [[number for number, _, _ in each or []] for each in changes]
        return {"numbers": numbers, "dumped": known.dumped} | found

    # -- mangled names: {"names": […]} ---------------------------------------------------------

    def _ask_names(self, question: Any, descriptors: list[int]) -> list[str]:
        return [self._demangle(name) for name in question["names"]]


def _sent(code: CodeRule | None) -> list[Any] | None:
    """What is known of code as it is sent."""
    if code is None:
        return None
    rule = code.rule
    return [int(rule.cfa), rule.offset, rule.rbp, rule.rbx, code.after_call, code.bare_page]


def _sent_runtime(runtime: Runtime | None) -> list[Any] | None:
    """A CPython as it is sent."""
    if runtime is None:
        return None
    return [runtime.distance, runtime.version, list(runtime.members), runtime.why]


def answer_of(found: Iterable[Found]) -> dict[str, Any]:
    """Answers as they are sent: each text once. One name may be that of a whole file's code."""
    texts: dict[str, int] = {}
    sent: list[tuple[int, int] | None] = []
    room = _MOST_TEXT
    for each in found:
        if each is None:
            sent.append(None)
            continue
        text, number = each
        if text not in texts:
            text = text if len(text) <= room else text[:_CUT]
            room -= 0 if text in texts else len(text)
        sent.append((texts.setdefault(text, len(texts)), number))
    return {"texts": list(texts), "found": sent}


def main() -> None:
    """Answer on the socket whose descriptor the command line names, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connection = socket.socket(fileno=int(sys.argv[1]))
    archive, lacking = _archive()
    server = Server(archive, partial(_demangled, _libstdcxx()))
    _give_up_rights()
    connection.sendall(packed({"lacking": lacking}))
    while True:
        try:
            question, descriptors = receive(connection)
        except EOFError:
            os._exit(0)
        lines = question["ask"] == "lines"
        allowed = LINES_S if lines else NAMES_S
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + allowed)
        _limit(resource.RLIMIT_AS, _LINES_BYTES if lines else _NAMES_BYTES)
        try:
            answer = {"answer": server.answer(question, descriptors)}
        except MemoryError:
            answer = {"why": "it needs more memory than is allowed"}
        except Exception as error:  # whatever a parser makes of a strange file
            answer = {"why": f"it is malformed ({type(error).__name__})"}
        connection.sendall(packed(answer))


def _give_up_rights() -> None:
    """Drop all but the open descriptors, as far as the kernel enforces it.

    The network and System V IPC are left where that is permitted, and
    so is the file system: all imports are done.
    """
    if os.geteuid() == 0:
        _leave_file_system()
    _limit(resource.RLIMIT_CPU, _MOST_S, hard=True)
    _limit(resource.RLIMIT_AS, _LINES_BYTES, hard=True)
    _limit(resource.RLIMIT_AS, _NAMES_BYTES)
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        _limit(which, 0, hard=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up rights")
    _limit(resource.RLIMIT_NPROC, 0, hard=True)
    # After the change of user, which clears it: the tracer may be killed while we are at work.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _leave_file_system() -> None:
    """Change the root to a deleted empty folder: nothing can be opened or made there."""
    with contextlib.suppress(OSError):
        folder = tempfile.mkdtemp(prefix="pagefault-")
        os.chdir(folder)
        os.rmdir(folder)
        os.chroot(".")


def _limit(which: int, value: int, *, hard: bool = False) -> None:
    """Set a limit, or keep the one there is if that is lower (who started us has one)."""
    _, most = resource.getrlimit(which)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(which, (value, value if hard else most))


def _archive() -> tuple[Any, str]:
    """symbolic's class of files with debug information; or None, and why."""
    try:
        from symbolic.debuginfo import Archive
    except ImportError:
        return None, "the package symbolic is not installed"
    return Archive, ""


def _libstdcxx() -> "ctypes.CDLL | None":
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return None
    library.__cxa_demangle.restype = ctypes.c_void_p
    library.__cxa_demangle.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3]
    library.free.argtypes = [ctypes.c_void_p]
    return library


def _demangled(library: "ctypes.CDLL | None", name: str) -> str:
    """The demangled name; "" where it is none."""
    if library is None:
        return ""
    status = ctypes.c_int()
    raw = name.encode("utf-8", "surrogateescape")
    found = library.__cxa_demangle(raw, None, None, ctypes.byref(status))
    if not found:
        return ""
    try:
        return ctypes.string_at(found).decode("utf-8", "surrogateescape")
    finally:
        library.free(found)
