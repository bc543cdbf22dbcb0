"""What names the code of a trace: one place for the files, who reads them, and what was found."""

import time
import weakref
from collections.abc import Callable, Sequence

from tracer.code_files import CodeFiles
from tracer.ending import go_on
from tracer.frames import FrameNames, opening_vdso
from tracer.rows import Region, Rows
from tracer.stacks import Stacks
from tracer.symbolizing.helper import Helper
from tracer.symbolizing.lookup import WAIT_S, Lookup
from tracer.symbolizing.perf_maps import PerfMaps
from tracer.symbols import Symbols
from tracer.text import printable

_START_S = 10.0  # for the process that reads files to be there, before anything is traced
_MOST_NOTES = 4  # files that are named


class Naming:
    """Names of a run's code. Nothing waits for them longer than it says."""

    def __init__(self, regions: Sequence[Region]) -> None:
        """`regions` as in rows.Names."""
        self.files = CodeFiles()
        helper = Helper()
        self.close = weakref.finalize(self, helper.close)
        self._helper = helper
        self._perf_maps = PerfMaps(helper)
        self.lookup = Lookup(helper, opening_vdso(self.files.open))
        self.symbols = Symbols(regions, self.lookup)
        self.frames = FrameNames(self.symbols, self._perf_maps)
        self.stacks: Stacks | None = None  # where call stacks are taken

    def start(self) -> None:
        """Start the process that reads files, to be ready when it is needed."""
        self._helper.start()

    def prepare(self) -> None:
        """Whatever else takes a while, before the trace begins."""
        self.symbols.prepare()
        self._helper.ready(time.monotonic() + _START_S)

    def again(self, *, last: bool = False) -> None:
        """Take what came to be known; cheap, for a loop. `last`: the targets may end any moment."""
        answered = self.lookup.wait(WAIT_S if last else 0)
        if self.stacks is not None:
            self.frames.again(last=last)
            if answered:
                self.stacks.revise()

    def settle(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until all is known of the call stacks' code. Raises Enough."""
        if self.stacks is None:
            return
        self.wait(enough)
        self.stacks.revise()
        self.frames.ask(self.stacks.places)
        self.wait(enough)

    def wait(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until all that was asked is answered. Raises Enough."""
        while not self.lookup.wait():
            go_on(enough)

    def notes(self) -> list[str]:
        """Which files' code has no names because they were given up, and why."""
        failed = {self.files.name(number): why for number, why in self.lookup.failed.items()}
        maps = self._perf_maps.failed.items()
        failed |= {f"the perf map of process {pid}": why for pid, why in maps}
        notes = [
            f"names: code of {printable(name)} has none: {why}"
            for name, why in list(failed.items())[:_MOST_NOTES]
        ]
        if len(failed) > _MOST_NOTES:
            notes.append(f"names: nor has code of {len(failed) - _MOST_NOTES} more files")
        return notes


class RowSymbols:
    """What names the instructions at fault, for outputs (tracer.outputs.base.Symbolizer)."""

    def __init__(self, naming: Naming, enough: Callable[[], bool]) -> None:
        """`enough`: names are not waited for any longer."""
        self._naming, self._enough = naming, enough

    def names(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """One string a row, "" where unknown, raw; and whether those are all that will be known."""
        return self._naming.symbols.names(rows["ip"], rows["ip_region"], rows["ip_offset"])

    def settle(self) -> None:
        """Wait until what was asked is known. Raises Enough."""
        self._naming.wait(self._enough)
