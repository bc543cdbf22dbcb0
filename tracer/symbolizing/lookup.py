"""What is known of the code in mapped files, by number and offset: asked once, answered later.

Whatever is not known yet is None for now; `settled` tells that from what will stay unknown. The
files are other users', and the process that answers has read them: its answers are taken for
what they can be, and no more.
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
from tracer.symbolizing.rule import Rule

DEBUG_ROOT = Path("/usr/lib/debug/.build-id")
WAIT_S = 0.05  # what tracing waits for an answer at most
_AT_ONCE = 4096  # offsets in a question
_NAMES_AT_ONCE = 256
_MOST_KNOWN = 1 << 19  # answers that are remembered
_LONGEST = 4096  # characters of a name or path
_BUILD_ID = re.compile(r"[0-9a-f]{4,1024}")
_LINES_S = 60.0  # of processor time: DWARF is large

Kind = Literal["functions", "rules", "build_id", "lines"]
Key = tuple[Kind, int, int]  # what, of which file, at which offset (0 for a build ID)
Found = tuple[str, int] | None


def no_file(number: int) -> int:
    """Nothing is known of the files that were mapped."""
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


class Lookup:
    """Functions, rules, build IDs and source lines of files, and what mangled names mean."""

    def __init__(
        self,
        helper: Asked,
        open_file: Callable[[int], int] = no_file,
        debug_root: Path = DEBUG_ROOT,
    ) -> None:
        """`open_file` as CodeFiles.open."""
        self._helper = helper
        self._open_file = open_file
        self._debug_root = debug_root
        self._known: dict[Key, Any] = {}
        self._asked: set[Key] = set()
        self._demangled: dict[str, str] = {}
        self._unopened: dict[int, str] = {}
        self.failed: dict[int, str] = {}  # files, and why they are not asked about any more
        self.unread: dict[int, str] = {}  # files that could not be opened for lines, and why

    @property
    def lacking(self) -> str:
        """Why there are no source lines at all, "" where nothing is known against them."""
        return self._helper.lacking

    def function(self, file: int, offset: int) -> Found:
        """(name, bytes into it) of the function at `offset`."""
        found: Found = self._value("functions", file, offset)
        return found

    def rule(self, file: int, offset: int) -> Rule | None:
        """How the code at `offset` keeps its caller."""
        found: Rule | None = self._value("rules", file, offset)
        return found

    def build_id(self, file: int) -> str:
        """In hexadecimal; "" where there is none, or it is not known yet."""
        return self._value("build_id", file, 0) or ""

    def line(self, file: int, offset: int) -> tuple[str, int]:
        """The source file and line at `offset`, once it was asked for; ("", 0): not known."""
        return self._known.get(("lines", file, offset)) or ("", 0)

    def demangled(self, name: str) -> str:
        """A mangled name as the programmer wrote it, once it was asked for; "" where it is none."""
        return self._demangled.get(name, "")

    def settled(self, kind: Kind, file: int, offset: int = 0) -> bool:
        """Whether what there is to know of that is known."""
        return (kind, file, offset) in self._known

    def ask(self, kind: Kind, file: int, offsets: Iterable[int]) -> None:
        """Ask for what is not known, and not asked for yet."""
        keys = ((kind, file, offset) for offset in offsets)
        wanted = [key[2] for key in keys if key not in self._known and key not in self._asked]
        if not wanted:
            return
        if kind in ("functions", "lines"):
            self.ask("build_id", file, [0])  # that tells where its debug file would be
        if len(self._known) > _MOST_KNOWN and kind != "lines":
            self._known.clear()
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            self._asked.update((kind, file, offset) for offset in part)
            self._helper.ask(
                Question(
                    file,
                    partial(self._make, kind, file, part),
                    partial(self._take, kind, file, part),
                    _LINES_S if kind == "lines" else 10.0,
                )
            )

    def ask_names(self, names: Iterable[str]) -> None:
        """Ask what mangled names mean."""
        wanted = sorted({name for name in names if name not in self._demangled})
        for start in range(0, len(wanted), _NAMES_AT_ONCE):
            self._ask_names(wanted[start : start + _NAMES_AT_ONCE])

    def wait(self, seconds: float = WAIT_S) -> bool:
        """Wait so long for what was asked. Whether all of it was answered."""
        return self._helper.turn(time.monotonic() + seconds)

    def wait_briefly(self, seconds: float = WAIT_S) -> bool:
        """The same while tracing: what has taken as long already is not waited for any more."""
        now = time.monotonic()
        return self._helper.turn(min(now, self._helper.since_s) + seconds)

    # -- questions and answers ---------------------------------------------------------------

    def _value(self, kind: Kind, file: int, offset: int) -> Any:
        key = kind, file, offset
        if key not in self._known:
            self.ask(kind, file, [offset])
        return self._known.get(key)

    def _make(
        self, kind: Kind, file: int, offsets: list[int], started: int
    ) -> tuple[dict[str, Any], list[int]]:
        descriptors = []
        try:
            descriptors.append(self._open_file(file))
        except OSError as error:  # whoever is asked may have it still
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

    def _take(self, kind: Kind, file: int, offsets: list[int], answer: Any, why: str) -> None:
        if why:
            self.failed[file] = why
        values = [None] * len(offsets) if why else _VALUES[kind](answer)
        if kind == "lines" and not values and file in self._unopened:
            self.unread[file] = self._unopened[file]
        for offset, value in zip(offsets, values, strict=kind != "lines"):
            self._known[kind, file, offset] = value
        for offset in offsets:
            self._asked.discard((kind, file, offset))
            self._known.setdefault((kind, file, offset))

    def _ask_names(self, names: Sequence[str]) -> None:
        message = {"ask": "names", "names": names}

        def take(answer: Any, why: str) -> None:
            if why and len(names) > 1:  # one of them it was
                middle = len(names) // 2
                self._ask_names(names[:middle])
                self._ask_names(names[middle:])
                return
            plain = [""] if why else [_name(each) for each in _list(answer)]
            self._demangled.update(zip(names, plain, strict=True))

        about = ("names", names[0], len(names))
        self._helper.ask(Question(about, lambda started: (message, []), take))


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise BadMessage("no list")
    return answer


def _name(text: Any) -> str:
    if not isinstance(text, str):
        raise BadMessage("no name")
    return text[:_LONGEST]


def _number(value: Any) -> int:
    if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise BadMessage("no number")
    return value


def _functions(answer: Any) -> list[Found]:
    pairs = [each and (_name(each[0]), _number(each[1])) for each in _list(answer)]
    return [pair if pair and pair[0] else None for pair in pairs]


def _rules(answer: Any) -> list[Rule | None]:
    return [
        each and Rule(_number(each[0]), _number(each[1]), bool(each[2]), bool(each[3]))
        for each in _list(answer)
    ]


def _build_id(answer: Any) -> list[str]:
    return [answer if isinstance(answer, str) and _BUILD_ID.fullmatch(answer) else ""]


def _lines(answer: Any) -> list[tuple[str, int]]:
    return [(_name(each[0]), _number(each[1])) for each in _list(answer)]


_VALUES: dict[Kind, Callable[[Any], list[Any]]] = {
    "functions": _functions,
    "rules": _rules,
    "build_id": _build_id,
    "lines": _lines,
}
