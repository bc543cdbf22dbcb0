"""Functions, unwind rules and lines of mapped files, by number and offset: asked once.

Whatever is not known yet is None for now; `settled` distinguishes that from what stays unknown.
The files are other users', and the process that answers has read them: its answers are
validated, and not trusted further.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tracer.procfs.regular import reopened
from tracer.symbolizing.helper import Asked, Question
from tracer.symbolizing.messages import BadMessage
from tracer.symbolizing.rule import FAR, FAR_RBP, FAR_RBX, UNKNOWN, Cfa, CodeRule, Rule
from tracer.symbolizing.runtime import Runtime, is_valid

DEBUG_ROOT = Path("/usr/lib/debug/.build-id")
WAIT_S = 0.05  # what tracing waits for an answer at most
_SLICE_S = 0.002  # … at once
_AT_ONCE = 4096  # offsets in a question
_LINES_AT_ONCE = 1 << 16
_NAMES_AT_ONCE = 256
_MOST_KNOWN = 1 << 18  # answers of one kind that are remembered
_MOST_TEXT = 1 << 26  # characters of names that are remembered
_LONGEST = 4096  # characters of a name or path
_CFAS = {int(each): each for each in Cfa}
_BUILD_ID = re.compile(r"[0-9a-f]{4,1024}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_VERSION = 1 << 16  # of a CPython
_LINES_S = 60.0  # of processor time: DWARF is large

Kind = Literal["functions", "rules", "runtimes", "build_id", "digest", "lines"]
Key = tuple[Kind, int, int]  # what, of which file, at which offset (0 for what it has one of)
Found = tuple[str, int] | None


def no_file(number: int) -> int:
    """Nothing is known of the files that were mapped."""
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


class Lookup:
    """Functions, rules, build IDs and source lines of files, and demangled names."""

    def __init__(
        self,
        helper: Asked,
        open_file: Callable[[int], int] = no_file,
        debug_root: Path = DEBUG_ROOT,
    ) -> None:
        """`open_file` as CodeFiles.open."""
        self.meanwhile: Callable[[], None] = lambda: None  # called now and then while it waits
        self._helper = helper
        self._open_file = open_file
        self._debug_root = debug_root
        self._known: dict[Kind, dict[tuple[int, int], Any]] = {kind: {} for kind in _VALUES}
        self._asked: set[Key] = set()
        self._text = 0  # characters of names among them, at most
        self._demangled: dict[str, str] = {}
        self._unopened: dict[int, str] = {}
        self.failed: dict[int, str] = {}  # files, and why they are not asked about any more
        self.lineless: dict[int, str] = {}  # files, and why they are not asked for lines

    @property
    def lacking(self) -> str:
        """Why there are no source lines at all, "" where nothing is known against them."""
        return self._helper.lacking

    def function(self, file: int, offset: int) -> Found:
        """(name, bytes into it) of the function at `offset`."""
        found: Found = self._value("functions", file, offset)
        return found

    def rule(self, file: int, offset: int) -> CodeRule | None:
        """The unwind rule of the code at `offset`, and what else is known of it; None: no code."""
        found: CodeRule | None = self._value("rules", file, offset)
        return found

    def runtime(self, file: int, offset: int) -> Runtime | None:
        """The CPython whose file is mapped from that offset, once it was asked for; None: none."""
        return self._known["runtimes"].get((file, offset))

    def build_id(self, file: int) -> str:
        """The build ID in hexadecimal; "" where there is none, or it is not known yet."""
        return self._value("build_id", file, 0) or ""

    def digest(self, file: int) -> bytes:
        """The SHA-256 of its content; b"" where it cannot be read, or is not known yet."""
        return bytes.fromhex(self._value("digest", file, 0) or "")

    def line(self, file: int, offset: int) -> tuple[str, int]:
        """The source file and line at `offset`, once it was asked for; ("", 0): not known."""
        return self._known["lines"].get((file, offset)) or ("", 0)

    def demangled(self, name: str) -> str:
        """A mangled name demangled, once it was asked for; "" where it is none."""
        return self._demangled.get(name, "")

    def settled(self, kind: Kind, file: int, offset: int = 0) -> bool:
        """Whether the answer to that is final."""
        return (file, offset) in self._known[kind]

    def ask(self, kind: Kind, file: int, offsets: Iterable[int]) -> None:
        """Ask for what is not known, and not asked for yet."""
        known, asked = self._known[kind], self._asked
        wanted = [
            offset
            for offset in offsets
            if (file, offset) not in known and (kind, file, offset) not in asked
        ]
        if not wanted:
            return
        if kind in ("functions", "lines"):
            self.ask("build_id", file, [0])  # by which its debug file is found
        at_once = _LINES_AT_ONCE if kind == "lines" else _AT_ONCE
        for start in range(0, len(wanted), at_once):
            part = wanted[start : start + at_once]
            asked.update((kind, file, offset) for offset in part)
            self._helper.ask(
                Question(
                    ("lines", file) if kind == "lines" else file,
                    partial(self._make, kind, file, part),
                    partial(self._answered, kind, file, part),
                    _LINES_S if kind == "lines" else 10.0,
                    urgent=kind in ("rules", "runtimes"),  # the kernel waits for them
                )
            )

    def ask_names(self, names: Iterable[str]) -> None:
        """Request demangled names."""
        wanted = sorted({name for name in names if name not in self._demangled})
        for start in range(0, len(wanted), _NAMES_AT_ONCE):
            self._ask_names(wanted[start : start + _NAMES_AT_ONCE])

    def wait(self, seconds: float = WAIT_S) -> bool:
        """Wait so long for what was asked. Whether all of it was answered."""
        return self._helper.turn(time.monotonic() + seconds)

    def wait_briefly(self, seconds: float = WAIT_S) -> bool:
        """The same while tracing: what has taken as long already is not waited for any more."""
        now = time.monotonic()
        until = min(now, self._helper.since_s) + seconds
        while not self._helper.turn(min(until, now + _SLICE_S)):
            now = time.monotonic()
            if now >= until:
                return False
            self.meanwhile()
        return True

    # -- questions and answers ---------------------------------------------------------------

    def _value(self, kind: Kind, file: int, offset: int) -> Any:
        known = self._known[kind]
        if (file, offset) not in known:
            self.ask(kind, file, [offset])
        return known.get((file, offset))

    def _make(
        self, kind: Kind, file: int, offsets: list[int], started: int
    ) -> tuple[dict[str, Any], list[int]]:
        descriptors = []
        try:
            descriptors.append(self._open_file(file))
        except OSError as error:  # the helper may have it still
            self._unopened[file] = error.strerror or str(error)
        else:
            self._unopened.pop(file, None)
            debug = self._open_debug(file) if kind in ("functions", "lines") else None
            descriptors += [] if debug is None else [debug]
        return {"ask": kind, "file": file, "offsets": offsets}, descriptors

    def _open_debug(self, file: int) -> int | None:
        """Of the separate debug file, where one is installed for that build ID."""
        build_id = self.build_id(file)
        if not build_id:
            return None
        path = self._debug_root / build_id[:2] / f"{build_id[2:]}.debug"
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return reopened(handle)
        except OSError:
            return None
        finally:
            os.close(handle)

    def _answered(self, kind: Kind, file: int, offsets: list[int], answer: Any, why: str) -> None:
        if why:
            (self.lineless if kind == "lines" else self.failed)[file] = why
        values = [] if why else _VALUES[kind](answer)
        if values and len(values) != len(offsets):
            raise BadMessage("so many were not asked about")
        if kind == "lines" and not values and not why and file in self._unopened:
            self.lineless[file] = self._unopened[file]
        known = self._known[kind]
        for offset in offsets:
            known[file, offset] = None
            self._asked.discard((kind, file, offset))
        for offset, value in zip(offsets, values, strict=False):
            known[file, offset] = value
        self._forget(kind, answer if values and kind == "functions" else None)

    def _forget(self, kind: Kind, answer: Any) -> None:
        """Of what is too much, the oldest answers. Lines are asked for once, and stay."""
        if answer is not None:
            self._text += sum(len(name) for name in answer["texts"])
        known = self._known[kind]
        if self._text > _MOST_TEXT:
            self._text = 0
            self._known["functions"].clear()
        elif len(known) > _MOST_KNOWN and kind != "lines":
            for key in list(known)[: _MOST_KNOWN // 4]:
                del known[key]

    def _ask_names(self, names: Sequence[str]) -> None:
        message = {"ask": "names", "names": names}

        def answered(answer: Any, why: str) -> None:
            if why and len(names) > 1:  # one of them it was
                for name in names:
                    self._ask_names([name])
                return
            plain = [""] if why else [name_of(each) for each in _list(answer)]
            self._demangled.update(zip(names, plain, strict=True))

        about = ("names", names[0], len(names))
        self._helper.ask(Question(about, lambda started: (message, []), answered))


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise BadMessage("no list")
    return answer


def name_of(text: Any) -> str:
    """A name as it was answered. Raises BadMessage where it is none."""
    if not isinstance(text, str):
        raise BadMessage("no name")
    return text[:_LONGEST]


def number_of(value: Any) -> int:
    """A number of 64 bits as it was answered. Raises BadMessage where it is none."""
    if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise BadMessage("no number")
    return value


def found_of(answer: Any) -> list[Found]:
    """(text, number) of each as answered, None where there is none (server.answer_of)."""
    texts = [name_of(each) for each in _list(answer["texts"])]
    return [
        None if each is None else (texts[number_of(each[0])], number_of(each[1]))
        for each in _list(answer["found"])
    ]


def _rules(answer: Any) -> list[CodeRule | None]:
    return [None if each is None else _code_of(each) for each in _list(answer)]


def _code_of(each: Any) -> CodeRule:
    cfa, offset, rbp, rbx, after_call, bare_page = _list(each)
    cfa = _CFAS.get(number_of(cfa))
    offset, rbp, rbx = number_of(offset), number_of(rbp), number_of(rbx)
    if cfa is None or not -FAR <= offset < FAR or not -FAR_RBP <= rbp < FAR_RBP:
        raise BadMessage("no unwind rule")
    if rbx != UNKNOWN and (rbx % 8 or not -FAR_RBX <= rbx <= 0):
        raise BadMessage("no place of rbx")
    if not isinstance(after_call, bool) or not isinstance(bare_page, bool):
        raise BadMessage("no facts of code")
    if bare_page and cfa != Cfa.FRAME:
        raise BadMessage("a page without rules that has one")
    return CodeRule(Rule(cfa, offset, rbp, rbx), after_call, bare_page)


def _runtimes(answer: Any) -> list[Runtime | None]:
    return [None if each is None else _runtime_of(each) for each in _list(answer)]


def _runtime_of(each: Any) -> Runtime:
    distance, version, members, why = _list(each)
    if not 0 <= number_of(version) < _MOST_VERSION:
        raise BadMessage("no version")
    if _list(members) and not is_valid(members):
        raise BadMessage("no offsets of members")
    return Runtime(number_of(distance), version, tuple(members), number_of(why))


def _build_id(answer: Any) -> list[str]:
    return [answer if isinstance(answer, str) and _BUILD_ID.fullmatch(answer) else ""]


def _digest(answer: Any) -> list[str]:
    return [answer if isinstance(answer, str) and _SHA256.fullmatch(answer) else ""]


_VALUES: dict[Kind, Callable[[Any], list[Any]]] = {
    "functions": found_of,
    "rules": _rules,
    "runtimes": _runtimes,
    "build_id": _build_id,
    "digest": _digest,
    "lines": found_of,
}
