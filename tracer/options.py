"""The option values of pagefault-trace that are more than a string or a number."""

from typing import Any

import click

from tracer.rows import Kind


class AddressRange(click.ParamType):
    """START-END in hexadecimal (0x optional), as /proc/PID/maps writes it; END is not included."""

    name = "START-END"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        try:
            start, end = int(first, 16), int(last, 16)
        except ValueError:
            self.fail(f"'{value}' is not a range; write it as in maps: 7f00-7f80 (hex)", param, ctx)
        if not dash or start >= end:
            self.fail(f"'{value}' is empty: START must be below END", param, ctx)
        return start, end


class Latency(click.ParamType):
    """A time such as 500ns, 20us, 1.5ms or 2s; a bare number is microseconds. Gives nanoseconds."""

    name = "TIME"
    _UNITS = (("ns", 1), ("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000))

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        scale = 1_000
        for unit, nanoseconds in self._UNITS:
            if text.endswith(unit):
                text, scale = text.removesuffix(unit), nanoseconds
                break
        try:
            result = float(text) * scale
        except ValueError:
            result = -1.0
        if not 0 <= result < 1e18:
            self.fail(f"'{value}' is not a time; try 500ns, 20us, 1.5ms or 2s", param, ctx)
        return int(result)


class Kinds(click.ParamType):
    """Kinds of faults, separated by commas."""

    name = "KIND[,…]"

    def convert(self, value: Any, param: Any, ctx: Any) -> frozenset[Kind]:
        if isinstance(value, frozenset):
            return value
        chosen = set()
        for word in str(value).split(","):
            try:
                chosen.add(Kind[word.strip().upper()])
            except KeyError:
                known = ", ".join(kind.name.lower() for kind in Kind if kind)
                self.fail(f"'{word}' is no kind of fault; there are {known}", param, ctx)
        return frozenset(chosen)


class Perms(click.ParamType):
    """Letters of rwxps that a mapping must all have."""

    name = "PERMS"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        letters = str(value).replace("-", "").lower()
        if not letters or set(letters) - set("rwxps"):
            self.fail(f"'{value}' are no permissions; use letters of rwxps, such as rwx", param, ctx)
        return letters
