"""Source lines of code, from DWARF, and demangled names.

Both take long, so they are asked for once the trace is over. Source lines need the package
`symbolic` (from PyPI); without it there are none. Names of C++ and old Rust are demangled by
libstdc++, which bcc needs anyway.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tracer.callstacks.frames import Frame
from tracer.callstacks.locations import Location
from tracer.common.deadline import go_on
from tracer.symbolizing.lookup import Lookup


@dataclass
class SourceLines:
    """What was found; truthy if there is anything."""

    lines: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # demangled
    lacking: str = ""  # why there are none, or none of some files

    def __bool__(self) -> bool:
        return bool(self.lines or self.names)

    def complete(self, frame: Frame, location: Location) -> Frame:
        """The frame with what was found of it; one of Python's has it all."""
        if frame.python:
            return frame
        here = frame.file, frame.line  # of JIT-compiled code, by its perf map
        file, line = self.lines.get((location.file, location.offset - location.returns), here)
        name = self.names.get(frame.function, frame.function)
        return replace(frame, function=name, file=file, line=line)


def find(
    locations: Iterable[Location],
    functions: Iterable[str],
    lookup: Lookup,
    enough: Callable[[], bool] = lambda: False,
) -> SourceLines:
    """Look up the source lines of `locations`, and demangle `functions`.

    What fails is left out of the answer. Raises Enough.
    """
    wanted: dict[int, list[int]] = {}
    for location in locations:
        if location.file:
            wanted.setdefault(location.file, []).append(location.offset - location.returns)
    mangled = {name for name in functions if name.startswith(("_Z", "_R"))}
    lookup.ask_names(mangled)
    for file, offsets in wanted.items():
        lookup.ask("lines", file, offsets)
    while not lookup.wait():
        go_on(enough)
    lacking = lookup.lacking if wanted else ""
    if not lacking and lookup.lineless:
        why = next(iter(lookup.lineless.values()))
        lacking = f"{len(lookup.lineless)} of {len(wanted)} files could not be read ({why})"
    found = SourceLines(lacking=lacking)
    found.names = {name: plain for name in mangled if (plain := lookup.demangled(name))}
    for file, offsets in wanted.items():
        for offset in offsets:
            line = lookup.line(file, offset)
            if line[1]:
                found.lines[file, offset] = line
    return found
