"""Symbolization of a trace: its files, the process that reads them, and what was found."""

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tracer.callstacks.file_rules import FileRules
from tracer.callstacks.frames import FrameNames, opening_vdso
from tracer.callstacks.stacks import Stacks
from tracer.callstacks.stored_rules import StoredRules
from tracer.callstacks.symbols import Symbols
from tracer.common.deadline import Enough, go_on
from tracer.common.text import printable
from tracer.model.rows import Region, Rows
from tracer.spaces.code_files import CodeFiles
from tracer.spaces.spaces import Spaces
from tracer.symbolizing.helper import Helper
from tracer.symbolizing.lookup import WAIT_S, Lookup
from tracer.symbolizing.perf_maps import PerfMaps

_START_S = 10.0  # for the process that reads files to be there, before anything is traced
_PATIENCE_S = 120.0  # once the trace is over, for what was asked at once
_ROUNDS = 8
_STORING_S = 2.0  # for the content of files to be read, once all else is done
_MOST_NOTES = 4  # files that are named


class Naming:
    """Names of a run's code. Nothing waits for them longer than it says."""

    def __init__(self, regions: Sequence[Region]) -> None:
        """`regions` as in rows.Names."""
        self.files = CodeFiles()
        helper = Helper()
        self._helper = helper
        self._perf_maps = PerfMaps(helper)
        self.close = weakref.finalize(self, _close, helper, self._perf_maps)
        self.lookup = Lookup(helper, opening_vdso(self.files.open))
        self.symbols = Symbols(regions, self.lookup)
        self.frames = FrameNames(self.symbols, self._perf_maps)
        self.stacks: Stacks | None = None  # where call stacks are recorded
        self._regions = regions
        self._impatient = False
        self._stored: StoredRules | None = None

    def stacks_of(self, spaces: Spaces) -> Stacks:
        """Create the call stacks of a trace, which these names are for."""
        names = self.frames
        self.stacks = Stacks(spaces, self._regions, names.kernel_names, names, names.versions)
        return self.stacks

    def begin_with_stored(self, folder: Path, rules: FileRules) -> None:
        """Begin with the unwind rules that earlier runs have stored in a folder."""
        self._stored = StoredRules(folder, self.files.open)
        rules.load = self._stored.load

    def store(self, rules: FileRules, enough: Callable[[], bool] = lambda: False) -> None:
        """Store unwind rules for later runs, where that folder is known; the last thing done."""
        if self._stored is None:
            return
        for file in self._stored.unread(rules):
            self.lookup.ask("digest", file, [0])
        until = time.monotonic() + _STORING_S
        while not self.lookup.wait():
            if enough() or time.monotonic() > until:
                return
        self._stored.store(rules, self.lookup.digest)

    def start(self) -> None:
        """Start the process that reads files, to be ready when it is needed."""
        self._helper.start()

    def prepare(self) -> None:
        """Read the kernel symbols and wait for the helper process, before the trace begins."""
        self.symbols.prepare()
        self._helper.ready(time.monotonic() + _START_S)

    def watch(self, pids: Iterable[int]) -> None:
        """Watch the perf maps of these processes, if call stacks are recorded."""
        if self.stacks is not None:
            self._perf_maps.watch(pids)

    def again(self, *, last: bool = False) -> None:
        """Read new answers; cheap, for a loop. `last`: the targets may end any moment."""
        answered = self.lookup.wait(WAIT_S if last else 0)
        if self.stacks is not None:
            self.frames.versions.again(last=last)
            if last:
                self.frames.wait()
            if answered:
                self.stacks.revise()

    def settle(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until the call stacks are symbolized. Raises Enough."""
        if self.stacks is None:
            return
        # Rules may be forgotten before the stack is walked that needs them: it asks again.
        for _ in range(_ROUNDS):
            self.wait(enough)
            self.stacks.revise(self.stacks.unsure)
            if not self.stacks.unsure:
                break
        self.frames.ask(self.stacks.locations)
        self.wait(enough)
        self.frames.versions.conclude()

    def wait(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait, within a limit, until all requests are answered. Raises Enough."""
        until = time.monotonic() + _PATIENCE_S
        while not self.lookup.wait():
            go_on(enough)
            if time.monotonic() > until:
                self._impatient = True
                raise Enough

    def finish(self) -> None:
        """Stop waiting: what is known by now is used."""
        if self.stacks is not None:
            self.stacks.revise(self.stacks.unsure)
            self.frames.versions.give_up()

    @property
    def pids(self) -> set[int]:
        """Process ids of our own helper."""
        return {self._helper.pid} - {0}

    def notes(self) -> list[str]:
        """Which files' code has no names because they were given up, and why."""
        failed = {self.files.name(number): why for number, why in self.lookup.failed.items()}
        maps = self._perf_maps.failed.items()
        failed |= {f"the perf map of process {pid}": why for pid, why in maps}
        notes = [
            f"names: functions of {printable(name)} are unresolved: {why}"
            for name, why in list(failed.items())[:_MOST_NOTES]
        ]
        if len(failed) > _MOST_NOTES:
            notes.append(f"names: so are those of {len(failed) - _MOST_NOTES} more files")
        if self.stacks is not None:
            notes += [
                f"stacks: Python {version} is {why}: its C frames are shown"
                for version, why in self.stacks.refused_pythons.items()
            ]
        if self._impatient:
            notes.append(f"names: not all were resolved within {_PATIENCE_S:.0f} s of the end")
        if self.stacks is not None and (unsure := self.stacks.unsure + self.stacks.unrevised):
            notes.append(
                f"stacks: {unsure} may lack callers, or have surplus ones: unwind information was"
                " read too late"
            )
        return notes


def _close(helper: Helper, perf_maps: PerfMaps) -> None:
    perf_maps.close()
    helper.close()


class RowSymbols:
    """Names the faulting instructions, for outputs (tracer.outputs.base.Symbolizer)."""

    def __init__(self, naming: Naming, enough: Callable[[], bool]) -> None:
        """`enough`: names are not waited for any longer."""
        self._naming, self._enough = naming, enough

    def names(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """One string a row, "" where unknown, raw; and whether those are all that will be known."""
        return self._names(rows, WAIT_S)

    def ask(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """`names` without waiting."""
        return self._names(rows, 0)

    def _names(self, rows: Rows, wait_s: float) -> tuple[Sequence[str], bool]:
        columns = rows["ip"], rows["ip_region"], rows["ip_offset"]
        return self._naming.symbols.names(*columns, wait_s)

    def settle(self) -> None:
        """Wait until what was asked is known. Raises Enough."""
        self._naming.wait(self._enough)
