"""The options of pagefault-trace as values, and how their arguments are parsed.

The readers raise click.BadParameter, whose message click completes with the
option's name. Nothing heavy is imported: --help and a mistyped option answer at once.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from tracer.common.deadline import DRAIN_S

if TYPE_CHECKING:
    from tracer.model.budgets import Budget
    from tracer.model.rows import Kind  # imports numpy

Value = TypeVar("Value")
ProbeName = Literal["auto", "fentry", "kprobe", "perf"]
TimeMode = Literal["relative", "wall", "monotonic"]

_RANGE = re.compile(r"(?:0x)?([0-9a-f]{1,16})-(?:0x)?([0-9a-f]{1,16})", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"([0-9.]+)\s*(ns|us|µs|ms|s|)", re.ASCII)
_NANOSECONDS = {"ns": 1, "": 1_000, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_PERMISSIONS = "rwxps"
_NATIVE = "--stacks=native"
_PID = re.compile(r"--pid(?:=(?P<long>.*))?|-(?P<flags>q*)p(?P<short>.*)", re.DOTALL)
_SEVERAL = re.compile(r"\d+(,\d+)*", re.ASCII)
_SIZE = re.compile(r"(\d{1,10})([KMG]?)I?B?", re.ASCII)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


class Whole(click.IntRange):
    """An integer from `min` on, with a plain message for anything else."""

    name = "whole number"


_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_STREAM = re.compile(r"-|/dev/std(in|out|err)|/(dev|proc/self)/fd/\d+", re.ASCII)


def is_stdout(path: str) -> bool:
    """Whether an output of that name goes to standard output."""
    return path in _STDOUT


def is_stream(path: str) -> bool:
    """Whether it goes to a descriptor we were given: no FILE.meta.json is beside that."""
    return _STREAM.fullmatch(path) is not None


@dataclass(frozen=True)
class Options:
    """The command line as given; each field is the option of that name."""

    pid: tuple[int, ...] = ()
    command: tuple[str, ...] = ()
    csv: str | None = None
    pages_csv: str | None = None
    output: str | None = None
    force: bool = False
    duration: float | None = None  # seconds
    drain: float = DRAIN_S  # seconds of processor time
    probe: ProbeName = "auto"
    snapshot_interval: int = 1000  # milliseconds
    buffer: int = 64 << 20  # bytes, a power of two
    range: tuple[int, int] | None = None  # addresses, the second not included
    min_latency: int = 0  # nanoseconds
    region: tuple[str, ...] = ()
    perms: str = ""
    kind: "frozenset[Kind]" = frozenset()
    children: bool = True
    time: TimeMode = "relative"
    symbols: bool = False
    stacks: bool = False
    jvm_perfmap: bool = False
    native: bool = False  # with the C frames of an interpreter whose own are known
    user: str | None = None
    strict: bool = False
    fail_if: "tuple[Budget, ...]" = ()
    quiet: bool = False
    live: bool = False
    check: bool = False


def reader(
    read: Callable[[str], Value],
) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    """`read` as a callback of a click option; an option not given stays None."""

    def callback(_: click.Context, __: click.Parameter, text: str | None) -> Value | None:
        return None if text is None else read(text)

    return callback


class PidsCommand(click.Command):
    """A command whose --pid takes several: `--pid 1 2`, as of $(pidof NAME), and `-p 1,2`.

    Its --stacks is a flag that may have a value: `--stacks=native`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """click's, of one --pid for each, and flags alone; `native` is one more parameter."""
        values = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not (option.is_flag or option.count)
            for name in option.opts
        }
        words, ctx.params["native"] = _plain(args, values)
        return super().parse_args(ctx, words)


def _plain(arguments: list[str], with_value: set[str]) -> tuple[list[str], bool]:
    """The arguments with a --pid of its own for each pid, as far as the options go.

    `with_value` are the options that take the next word. After --pid each word of digits
    is a pid; a command of such a name can be given after `--`. And whether --stacks has its value.
    """
    native = False
    found: list[str] = []
    words = arguments[::-1]
    while words and words[-1].startswith("-") and words[-1] not in ("-", "--"):
        word = words.pop()
        if word == _NATIVE:
            found.append("--stacks")
            native = True
            continue
        match = _PID.fullmatch(word)
        if match is None:
            found.append(word)
            if word in with_value and words:
                found.append(words.pop())
            continue
        if match["flags"]:
            found.append("-" + match["flags"])
        value = match["short"] or match["long"]
        if value is None:
            if not words:
                return [*found, word], native  # reported by click
            value = words.pop()
        pids = [value]
        if _SEVERAL.fullmatch(value):
            pids = value.split(",")
            while words and _SEVERAL.fullmatch(words[-1]):
                pids += words.pop().split(",")
        found += [each for pid in pids for each in ("--pid", pid)]
    return found + words[::-1], native


def budgets(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> "tuple[Budget, ...]":
    """The callback of --fail-if."""
    if not given:
        return ()
    from tracer.model.budgets import BadBudget, parse_budget

    try:
        return tuple(parse_budget(text) for text in given)
    except BadBudget as error:
        raise click.BadParameter(str(error)) from None


def address_range(text: str) -> tuple[int, int]:
    """START-END in hexadecimal, as /proc/PID/maps writes it (0x may precede); END is left out."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"'{text}' is not a range; write it as in maps: 7f00-7f80 (hex)")
    start, end = int(match[1], 16), int(match[2], 16)
    if start >= end:
        raise click.BadParameter(f"'{text}' is empty: START must be below END")
    return start, end


def nanoseconds(text: str) -> int:
    """A time such as 500ns, 20us, 1.5ms or 2s; a bare number is microseconds."""
    match = _TIME.fullmatch(text.strip().lower().replace("μ", "µ"))
    number = _number(match[1]) if match else math.nan
    if match is None or not number * 1e9 < 1e18:
        raise click.BadParameter(f"'{text}' is not a time; try 500ns, 20us, 1.5ms or 2s")
    return round(number * _NANOSECONDS[match[2]])


def ring_bytes(text: str) -> int:
    """A size such as 256K, 64M or 1G; rounded up to a power of two, as the kernel wants it."""
    match = _SIZE.fullmatch(text.strip().upper())
    size = int(match[1]) << _SHIFTS[match[2]] if match else 0
    if not 1 << 12 <= size <= 1 << 30:
        raise click.BadParameter(f"'{text}' is not a size from 4K to 1G")
    return 1 << (size - 1).bit_length()


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    number = _number(text.strip().removesuffix("s"))
    if not 0 < number < 1e9:
        raise click.BadParameter(f"'{text}' is not a number of seconds above 0")
    return number


def seconds_or_none(text: str) -> float:
    """A number of seconds; 0 is one, too."""
    number = _number(text.strip().removesuffix("s"))
    if not 0 <= number < 1e9:
        raise click.BadParameter(f"'{text}' is not a number of seconds, 0 or more")
    return number


def _number(text: str) -> float:
    """A plain decimal number; NaN for anything else."""
    return float(text) if re.fullmatch(r"\d+\.?\d*|\.\d+", text, re.ASCII) else math.nan


def kinds(text: str) -> "frozenset[Kind]":
    """Kinds of faults, separated by commas."""
    from tracer.model.rows import Kind

    chosen = set()
    for word in text.split(","):
        try:
            chosen.add(Kind[word.strip().upper()])
        except KeyError:
            known = ", ".join(kind.name.lower() for kind in Kind)
            message = f"'{word}' is not a kind of fault; kinds are {known}"
            raise click.BadParameter(message) from None
    return frozenset(chosen)


def permissions(text: str) -> str:
    """Letters of rwxps that a mapping must all have; dashes as in maps mean nothing."""
    letters = text.strip().replace("-", "").lower()
    if not letters or set(letters) - set(_PERMISSIONS):
        raise click.BadParameter(
            f"'{text}' are not permissions; use letters of {_PERMISSIONS}, such as rwx"
        )
    return letters
