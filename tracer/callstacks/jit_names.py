"""Names of JIT-compiled functions as their runtimes write them, taken apart.

V8 (src/logging/log.cc: CodeKind's marker, and SharedFunctionInfo's name and position):
"JS:*fill /app/w.js:2:54". CPython (-X perf): "py::fill:/app/w.py". HotSpot
(CodeCache::write_perf_map): "void J.fill(java.util.HashMap, int)", as it is.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

# What of a script was compiled, and a marker of how: "~" is interpreted, "^" and "+" baseline and
# Maglev, "*" optimized.
_V8 = re.compile(r"(?:LazyCompile|Function|JS|Script|Eval|RegExp):([~^+*'o-]?)(.*)", re.DOTALL)
_POSITION = re.compile(r"(.*?) ?([^ ]*?)(?::(\d{1,9}))?(?::(\d{1,9}))?", re.DOTALL)
_HANDLER = re.compile(r"(?:Builtin|BytecodeHandler|Stub|Handler):(.+)", re.DOTALL)
_PYTHON = re.compile(r"py::(.+?):(/.*|<.*>)", re.DOTALL)
_MOST_KNOWN = 1 << 14


@dataclass(frozen=True, slots=True)
class JitName:
    """A function, and where its source is, "" and 0 where the name does not say."""

    function: str
    file: str = ""
    line: int = 0


@lru_cache(_MOST_KNOWN)
def jit_name(raw: str) -> JitName:
    """A name in a perf map taken apart; one of a form that is not known stays whole.

    The tier it was compiled by is dropped: the function is the same.
    """
    if match := _V8.fullmatch(raw):
        return _of_v8(match[2]) if not raw.startswith("RegExp:") else JitName(raw)
    if match := _HANDLER.fullmatch(raw):
        return JitName(match[1])
    if match := _PYTHON.fullmatch(raw):
        return JitName(match[1], match[2])
    return JitName(raw)


def _of_v8(text: str) -> JitName:
    match = _POSITION.fullmatch(text)
    assert match is not None  # each part may be empty
    function, file, line, column = match[1], match[2], match[3], match[4]
    if line is None or (column is None and not file):
        return JitName(text.strip() or "(anonymous)")
    return JitName(function or "(anonymous)", file, int(line))
