"""Source or loss of a page change without a record, from frames, kernel counters and files.

Evidence, not proof: the kernel's counters are system-wide. What they rule out
did not happen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tracer.common.pages import NO_FRAME, page_range
from tracer.common.types import PAGE_BITS, U8, U64, Bools
from tracer.model.sources import Loss, Source
from tracer.procfs import kpageflags
from tracer.procfs.mapped_files import contents
from tracer.snapshots.snapshots import Snapshot

_NONE = np.uint64(NO_FRAME)
_INSIDE = np.uint64((1 << 21) - 1)  # of an address: where in a huge page it is


@dataclass(frozen=True)
class Hint:
    """A system call populated [start, end) (`source`), or gave it up for reclaim (`loss`)."""

    start: int
    end: int
    source: Source = Source.NONE
    loss: Loss = Loss.NONE
    time_ns: int = 0

    def holds(self, pages: U64) -> Bools:
        """Which pages are in the range."""
        first, last = (np.uint64(page) for page in page_range(self.start, self.end))
        return np.asarray((pages >= first) & (pages < last))


@dataclass(frozen=True)
class Machine:
    """What this machine and this probe can show."""

    zero_frame: int = NO_FRAME  # the shared zero page's
    blind_to_others: bool = False  # the probe misses other processes' accesses
    ksm_flag: bool = True  # the kernel flags only KSM pages as KSM
    flags: Callable[[U64], U64] = kpageflags.flags
    counts: Callable[[U64], U64] = kpageflags.counts


@dataclass(frozen=True)
class Evidence:
    """What happened since the last snapshot that left no suspects."""

    moved: frozenset[str]  # kinds of movements by the kernel: system.movement_counters
    unrecorded: Source | None  # whether faults went unrecorded, and why
    machine: Machine = Machine()
    hints: tuple[Hint, ...] = ()
    dropped_faults: int = 0  # unrecorded because the ring was full, at most
    dropped: bool = False  # records of releases may have been dropped

    def move_sources(self, shot: Snapshot, pages: U64, old: U64, new: U64) -> U8:
        """The source of each of `pages`' frame `new`, in place of `old`; NONE: nothing explains it.

        `old` is NO_FRAME where there was none. UNKNOWN: it may have been another process, whose
        access this probe does not see.
        """
        to_zero = (new == np.uint64(self.machine.zero_frame)) & in_huge(pages, old)
        whole = shot.huge(pages) & (shot.frame_of(pages) == new)
        moved = self._moved()
        rules = [
            (to_zero & moved["split"], Source.SPLIT),
            (whole & moved["collapse"], Source.COLLAPSE),
            (self._shared(new), Source.KSM),
        ]
        rest = self.unrecorded
        for what, who in (
            ("swapoff", Source.SWAPOFF),
            ("migrate", Source.MIGRATE),
            ("ksm", Source.KSM),  # separated again
            ("collapse", Source.COLLAPSE),
        ):
            # Where enough faults were dropped to explain them all, those are more likely.
            if what in self.moved and self.dropped_faults < len(pages):
                rest = who
                break
        nobody = Source.UNKNOWN if self.machine.blind_to_others else Source.NONE
        if rest in (Source.SWAPOFF, Source.MIGRATE):
            # Neither is ever done to the zero page.
            rules.append((old == np.uint64(self.machine.zero_frame), self.unrecorded or nobody))
        chosen = np.select(
            [rule for rule, _ in rules],
            [who.value for _, who in rules],
            nobody if rest is None else rest,
        ).astype(np.uint8)
        return self._filled(pages, chosen)

    def gain_sources(self, shot: Snapshot, pages: U64, rest: Source) -> U8:
        """The source of each of `pages`' frame, where it had none; `rest` without evidence."""
        if "swapoff" in self.moved:
            rest = Source.SWAPOFF
        elif self.unrecorded is not None:
            rest = self.unrecorded
        chosen = np.full(len(pages), rest, np.uint8)
        if "collapse" in self.moved:
            chosen[shot.huge(pages)] = Source.COLLAPSE
        chosen[shot.of_driver(pages)] = Source.POPULATE
        return self._filled(pages, chosen)

    def exec_sources(self, pages: U64) -> U8:
        """The source of each of `pages`' frame in an address space that exec has just made."""
        return self._filled(pages, np.full(len(pages), Source.EXEC, np.uint8))

    def _filled(self, pages: U64, chosen: U8) -> U8:
        """`chosen`, overridden where a system call populated the page."""
        for hint in self.hints:
            if hint.source:
                chosen[hint.holds(pages)] = hint.source
        return chosen

    def _shared(self, frames: U64) -> Bools:
        """Which frames KSM shares: several of the pages have them, or the kernel's flags say so."""
        if "ksm" not in self.moved:
            return np.zeros(len(frames), np.bool_)
        _, inverse, times = np.unique(frames, return_inverse=True, return_counts=True)
        machine, numbers = self.machine, frames >> PAGE_BITS
        if machine.ksm_flag:
            flagged = (machine.flags(numbers) & np.uint64(kpageflags.KSM)) != 0
        else:
            flagged = machine.counts(numbers) > 1
        own = (frames != np.uint64(machine.zero_frame)) & (frames != _NONE)
        return np.asarray(((times[inverse] > 1) | flagged) & own)

    def release_causes(self, shot: Snapshot, pages: U64, old: U64, released: tuple[U64, U64]) -> U8:
        """The loss of each of `pages`, which had the frame `old`; UNKNOWN without evidence.

        An unrecorded fault clears no page-table entry: MISSED is only for calls whose record
        was `dropped`.

        `released`: all pages released lately, these or others, and their frames.
        """
        moved = self._moved()
        mapped, of_file = shot.mapped(pages), shot.of_file(pages)
        missing, in_memory, on_disk = self._in_files(shot, pages)
        alone = self.unrecorded is None and not self.dropped
        rest = Loss.MISSED if self.dropped else Loss.UNKNOWN
        # The kernel unmaps a file's huge page as a whole to split it, and small pages to
        # collapse them; the next access maps what there is then.
        rules = [
            (np.isin(pages, shot.swapped), Loss.RECLAIM),
            (~mapped, Loss.MUNMAP),
            (missing, Loss.TRUNCATE),
            (self._shared_a_folio(shot, pages, old, released), Loss.SPLIT),
            (of_file & in_huge(pages, old) & moved["split"], Loss.SPLIT),
            (of_file & moved["collapse"], Loss.COLLAPSE),
            (np.full(len(pages), moved["reclaim"]), Loss.RECLAIM),
            # A page in memory only, and not swapped out, was removed from its file.
            (in_memory & np.bool_(alone), Loss.TRUNCATE),
            # A page that its file still has on disk was reclaimed: no counter covers
            # process_madvise(MADV_PAGEOUT).
            (on_disk & np.bool_(alone), Loss.RECLAIM),
        ]
        chosen = np.select(
            [rule for rule, _ in rules], [who.value for _, who in rules], rest.value
        ).astype(np.uint8)
        for hint in self.hints:
            if hint.loss:
                chosen[hint.holds(pages) & mapped & ~np.isin(pages, shot.swapped)] = hint.loss
        return chosen

    def _moved(self) -> dict[str, bool]:
        return {what: what in self.moved for what in ("split", "collapse", "reclaim")}

    def _shared_a_folio(
        self, shot: Snapshot, pages: U64, old: U64, released: tuple[U64, U64]
    ) -> Bools:
        """Whether each page shared a folio with another whose file offset no longer exists.

        Such a folio is split, and unmapped for that (truncate_inode_partial_folio, mm/truncate.c).
        """
        missing, _, _ = self._in_files(shot, released[0])
        if not missing.any():
            return np.zeros(len(pages), np.bool_)
        line = released[1] - (released[0] << PAGE_BITS)  # the same for all pages of a folio
        mine = old - (pages << PAGE_BITS)
        return shot.of_file(pages) & np.isin(mine, line[missing])

    def _in_files(self, shot: Snapshot, pages: U64) -> tuple[Bools, Bools, Bools]:
        """Which of `pages` their file no longer has; whose file is in memory only; or on disk."""
        missing, in_memory, on_disk = (np.zeros(len(pages), np.bool_) for _ in range(3))
        at = shot.mapping_of(pages)
        for index in np.unique(at[shot.of_file(pages)]).tolist():
            mapping = shot.mappings[index]
            mine = np.flatnonzero(at == index)
            mine = mine[np.argsort(pages[mine])]
            offsets = (pages[mine] << PAGE_BITS) - np.uint64(mapping.start)
            found = contents(shot.pid, mapping, (offsets + np.uint64(mapping.offset)).tolist())
            if found is not None:
                missing[mine], in_memory[mine] = found.missing, found.in_memory
                on_disk[mine] = not found.in_memory
        return missing, in_memory, on_disk


def in_huge(pages: U64, frames: U64) -> Bools:
    """Whether each page's frame may be part of a huge page: both have the same offset in 2 MiB."""
    return np.asarray(((pages << PAGE_BITS) & _INSIDE) == (frames & _INSIDE))
