"""Unwind rows as readelf decodes them: the oracle of our rules.

`python -m tests.readelf_rows FILE…` compares every row of files with ours, at its first and at its
last byte, and prints how many differ and, by kind, how many cannot be expressed.
"""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.unit.opened import opener
from tracer.symbolizing import elf
from tracer.symbolizing.rule import AT_RBP, FAR_RBP, FAR_RBX, KEPT, UNKNOWN, Cfa, Rule

_ENTRY = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_EXPRESSION = re.compile(
    r"  DW_CFA_(?:def_(cfa)_expression|expression: r\d+ \((rb[px])\)) \((.*)\)$"
)
_ADVANCED = re.compile(r"  DW_CFA_(?:advance_loc\d?|set_loc): .*\bto ([0-9a-f]+)$")
_IN_REGISTER = re.compile(r"\b(r\d+) \(\w+\)")  # a register's value is in another one

# What the rules of these kinds stand for, as readelf prints it.
_SIGNAL = "DW_OP_breg7 (rsp): 160; DW_OP_deref"
_SIGNAL_RBP = "DW_OP_breg7 (rsp): 120"
_SIGNAL_RBX = "DW_OP_breg7 (rsp): 128"
_PLT = (
    "DW_OP_breg7 (rsp): 8; DW_OP_breg16 (rip): 0; DW_OP_lit15; DW_OP_and; DW_OP_lit{}; DW_OP_ge; "
    "DW_OP_lit3; DW_OP_shl; DW_OP_plus"
)
_WHERE_RBP_POINTS = "DW_OP_breg6 (rbp): 0"
_USUAL = re.compile(r"r(sp|bp|bx)[+-]\d+")
_FOLLOWED = re.compile(
    r"DW_OP_breg6 \(rbp\): -?\d+; DW_OP_deref"
    r"|DW_OP_breg7 \(rsp\): -?\d+; DW_OP_deref; DW_OP_plus_uconst: 8"
)


class Row(NamedTuple):
    address: int
    last: int  # its last byte
    cfa: str  # "rsp+16", "rbp+16", "exp"
    rbp: str  # "u" kept, "c-16", "exp", "vexp", "s" …
    rbx: str
    ra: str  # "c-8", "u" undefined


class Texts(NamedTuple):
    """The expressions of a row, as readelf prints them; "" where it has another rule."""

    cfa: str = ""
    rbp: str = ""
    rbx: str = ""


@dataclass
class Comparison:
    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # of rows that cannot be expressed
    followed: int = 0  # of these, by an expression that other rows' rules have
    different: list[str] = field(default_factory=list)


def _dumped(kind: str, path: str) -> Iterator[str]:
    """The lines of .eh_frame as readelf prints it."""
    command = ["readelf", "--wide", f"--debug-dump={kind}", path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        inside = False
        for line in process.stdout:
            if line.startswith("Contents of the "):
                inside = ".eh_frame" in line  # not .debug_frame
            elif inside:
                yield line.rstrip()


def rows(path: str) -> Iterator[Row]:
    """Every row of every function."""
    names: list[str] = []
    end = 0
    inside = False
    found: list[list[str]] = []

    def whole() -> Iterator[Row]:
        starts = [int(words[0], 16) for words in found]
        for words, start, after in zip(found, starts, [*starts, end][1:], strict=True):
            # Of several rows for one address the last holds.
            if after > start:
                row = dict(zip(names, words, strict=True))
                saved = [row.get("rbp", "u"), row.get("rbx", "u"), row.get("ra", "?")]
                yield Row(start, after - 1, row["CFA"], *saved)

    for line in _dumped("frames-interp", path):
        if entry := _ENTRY.match(line):
            yield from whole()
            found = []
            end, inside = int(entry[2], 16), True
        elif " CIE " in line or "ZERO terminator" in line:
            yield from whole()
            found = []
            inside = False
        elif inside and line.lstrip().startswith("LOC"):
            names = line.split()
        elif (
            inside and (words := _IN_REGISTER.sub(r"\1", line).split()) and len(words) == len(names)
        ):
            found.append(words)
    yield from whole()


def expressions(path: str) -> dict[int, Texts]:
    """The last expressions of the CFA and of registers, by the address where they become these.

    Those in a CIE are not among them, but no compiler makes such.
    """
    found: dict[int, Texts] = {}
    location, texts = -1, Texts()
    remembered: list[Texts] = []
    for line in _dumped("frames", path):
        if entry := _ENTRY.match(line):
            location, texts, remembered = int(entry[1], 16), Texts(), []
        elif " CIE " in line:
            location = -1
        elif not line.startswith("  DW_CFA_"):
            continue
        elif advanced := _ADVANCED.match(line):
            location = int(advanced[1], 16)
        elif expression := _EXPRESSION.match(line):
            texts = texts._replace(**{expression[1] or expression[2]: expression[3]})
        elif line == "  DW_CFA_remember_state":
            remembered.append(texts)
        elif line == "  DW_CFA_restore_state":
            texts = remembered.pop()
        else:
            continue
        found[location] = texts
    return found


class _Expressions:
    """The expressions that hold at rows, which come in the file's order."""

    def __init__(self, path: str) -> None:
        self._found = expressions(path)
        self._known = Texts()

    def at(self, row: Row) -> Texts:
        self._known = self._found.get(row.address, self._known)
        return Texts(
            *(
                text if printed == "exp" else ""
                for text, printed in zip(self._known, (row.cfa, row.rbp, row.rbx), strict=True)
            )
        )


def agrees(rule: Rule, row: Row, texts: Texts) -> str:
    """ "" where they agree, "none" where it cannot be expressed, else what differs."""
    if row.ra == "u":
        return "" if rule.cfa == Cfa.OUTERMOST else f"outermost: {rule}"
    ours = {
        Cfa.SIGNAL: _SIGNAL,
        Cfa.PLT: _PLT.format(rule.offset),
        Cfa.AT_RBP: f"DW_OP_breg6 (rbp): {rule.offset}; DW_OP_deref",
        Cfa.AT_RSP: f"DW_OP_breg7 (rsp): {rule.offset}; DW_OP_deref; DW_OP_plus_uconst: 8",
    }.get(rule.cfa)
    if rule.cfa == Cfa.SIGNAL:
        return "" if texts == (ours, _SIGNAL_RBP, _SIGNAL_RBX) else f"{rule}"
    usual = _USUAL.fullmatch(row.cfa) is not None and row.ra == "c-8"
    if rule.cfa == Cfa.NONE:
        return f"{rule}" if usual else "none"
    if ours is not None:
        if ours != texts.cfa or row.ra != "c-8":
            return f"{rule}"
    elif not usual or f"{rule.cfa.name.lower()}{rule.offset:+d}" != row.cfa:
        return f"{rule}"
    return _agrees_of_rbp(rule.rbp, row.rbp, texts.rbp) or _agrees_of_rbx(rule.rbx, row.rbx)


def _agrees_of_rbp(ours: int, text: str, expression: str) -> str:
    if ours == KEPT:
        same = text in ("u", "s")
    elif ours == AT_RBP:
        same = text == "exp" and expression == _WHERE_RBP_POINTS
    elif ours == UNKNOWN:
        same = not _kept_or_near(text, FAR_RBP) and expression != _WHERE_RBP_POINTS
    else:
        same = text == f"c{ours:+d}"
    return "" if same else f"rbp {ours}"


def _agrees_of_rbx(ours: int, text: str) -> str:
    if ours == KEPT:
        same = text in ("u", "s")
    elif ours == UNKNOWN:
        same = not _kept_or_near(text, FAR_RBX)
    else:
        same = text == f"c{ours:+d}"
    return "" if same else f"rbx {ours}"


def _kept_or_near(text: str, far: int) -> bool:
    offset = re.fullmatch(r"c([+-]\d+)", text)
    return text in ("u", "s") or (offset is not None and int(offset[1]) in range(-far, 0, 8))


def compare(path: str) -> Comparison:
    """Every row of a file with our rule."""
    rules = elf.unwinding(opener(path))
    assert rules is not None, path
    found = Comparison()
    known = _Expressions(path)
    for row in rows(path):
        found.rows += 1
        rules.renew()
        texts = known.at(row)
        results = {agrees(rules.at_address(at), row, texts) for at in (row.address, row.last)} - {
            ""
        }
        if results == {"none"}:
            return_at = "" if row.ra == "c-8" else f", return address {row.ra}"
            found.kinds[f"CFA {texts.cfa or row.cfa}{return_at}"] += 1
            # A signal frame's may be computed in that way and is no other's.
            found.followed += row.ra == "c-8" and _FOLLOWED.fullmatch(texts.cfa) is not None
        elif results:
            found.different.append(f"{row}: {results}")
        elif texts.rbp not in ("", _WHERE_RBP_POINTS, _SIGNAL_RBP) or row.rbp == "vexp":
            found.kinds[f"rbp {texts.rbp or row.rbp}"] += 1
        elif texts.rbx != _SIGNAL_RBX and not _kept_or_near(row.rbx, FAR_RBX):
            found.kinds[f"rbx {texts.rbx or row.rbx}"] += 1
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        began = time.monotonic()
        result = compare(name)
        print(
            f"{name}: {result.rows} rows, {sum(result.kinds.values())} not expressed, "
            f"{len(result.different)} different, {time.monotonic() - began:.1f} s"
        )
        for kind, count in result.kinds.most_common():
            print(f"  {count} {kind}")
        print(*result.different[:10], sep="\n")
