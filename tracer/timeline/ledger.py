"""The state of every page, and its only writer: which frame it has, since when, by what.

State is kept in blocks of 64 pages inside a few flat arrays, so that a batch of events is applied
with array operations; blocks that have had no frame for a while are archived (archive.py). What
follows from a fault, a call or a snapshot is decided by the rules (faults.py, releases.py) and in
snapshots/.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.pages import NO_FRAME, PAGE_SHIFT, PAGE_SIZE
from tracer.common.types import I64, U8, U32, U64, Ids
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.archive import WHOLE
from tracer.timeline.events import Events
from tracer.timeline.page_columns import COLUMNS
from tracer.timeline.page_store import PageStore, distinct_spaces, run_of
from tracer.timeline.tally import Tally, Watcher
from tracer.timeline.unexplained import Changes, Unexplained

_NONE = np.uint64(NO_FRAME)
_NO_BLOCKS = np.empty(0, np.uint64)
_FEW_BYTES = 16 * PAGE_SIZE  # of pages that are handled one by one
# A table by value: looked up very often, for a page or two.
_ENDING = (Loss.MUNMAP.value, Loss.MOVE.value)
_ENDS = np.isin(np.arange(32), _ENDING)


class Ledger:
    """The pages of every address space of a run, by slots: indices into `columns`."""

    watcher: Watcher | None = None  # of the live view, where there is one

    def __init__(self, most_archived: int | None = None) -> None:
        """`most_archived`: rows of pages without a frame that are kept; None: all."""
        self.store = PageStore(COLUMNS, {"frame": NO_FRAME}, most_archived)
        self.columns = self.store.columns
        self.archive = self.store.archive
        self.tally = Tally()
        self.latest_ns = 0  # no page changed after that, as far as is known
        self._unexplained = Unexplained()
        self._compared: dict[int, U64] = {}  # by space: blocks that `pop_changed` returned

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.columns[column]

    # -- gains ----------------------------------------------------------

    def gain(
        self,
        at: I64,
        time: I64 | int,
        frame: U64,
        source: U8 | Source,
        region: U32 | int,
        number: U64 | int = 0,
        kind: U8 | int = Kind.UNKNOWN.value,
    ) -> None:
        count = len(at)
        if not count:
            return
        columns = self.columns
        sources = np.full(count, source, np.uint8) if isinstance(source, Source) else source
        # After an unmap the address belongs to a new mapping: a new page.
        ended = _ENDS[columns["last_loss"][at]]
        if ended.any():
            for name in ("gains", "losses", "last_loss"):
                columns[name][at[ended]] = 0
        first = columns["gains"][at] == 0
        every = bool(first.all())
        self.store.mark(at)
        to = run_of(at)
        new = to if every else at[first]
        for name, value in (
            ("first_ns", time),
            ("first_frame", frame),
            ("first_source", sources),
            ("first_fault", number),
            ("first_kind", kind),
            ("region", region),
        ):
            each = value if every or not isinstance(value, np.ndarray) else value[first]
            columns[name][new] = each
        columns["confirmed"][new] = Confirmed.FAULT
        columns["frame"][to] = frame
        columns["changed_ns"][to] = time
        self._note(time)
        columns["source"][to] = sources
        columns["doubt"][to] = 0
        columns["gains"][to] += np.uint32(1)
        columns["assumed"][to] = False
        self.tally.gained += _counts(sources)
        own = region if every and isinstance(region, np.ndarray) else columns["region"][at]
        self.tally.count(self.tally.gained_in, own, sources != Source.INITIAL)
        if self.watcher is not None:
            frames = np.asarray(columns["frame"][at])
            self.watcher.gained(*self._places(at), time, frames, kind, sources)

    def gain_one(
        self,
        at: int,
        time_ns: int,
        frame: int,
        source: int,
        region: int,
        number: int = 0,
        kind: int = Kind.UNKNOWN.value,
    ) -> None:
        """`gain` of one page, which has no frame."""
        columns = self.columns
        gains = 0 if columns["last_loss"].item(at) in _ENDING else columns["gains"].item(at)
        if not gains:
            if columns["gains"].item(at):
                columns["losses"][at] = columns["last_loss"][at] = 0
            columns["first_ns"][at] = time_ns
            columns["first_frame"][at] = frame
            columns["first_source"][at] = source
            columns["first_fault"][at] = number
            columns["first_kind"][at] = kind
            columns["region"][at] = region
            columns["confirmed"][at] = Confirmed.FAULT
        else:
            region = columns["region"].item(at)
        self.store.mark_one(at)
        columns["frame"][at] = frame
        columns["changed_ns"][at] = time_ns
        columns["source"][at] = source
        columns["doubt"][at] = 0
        columns["gains"][at] = gains + 1
        columns["assumed"][at] = False
        self.latest_ns = max(self.latest_ns, time_ns)
        self.tally.gained[source] += 1
        if source != Source.INITIAL:
            self.tally.gained_in[region] = self.tally.gained_in.get(region, 0) + 1

    def take_over(self, at: I64, events: Events) -> None:
        """Book under a fault a frame that a snapshot, or the call that filled it, showed first."""
        if not len(at):
            return
        columns, source = self.columns, events.source
        # What was mapped before the trace is no gain until a recorded fault claims it.
        before = columns["source"][at]
        initial = before == Source.INITIAL
        self.tally.count(self.tally.gained_in, columns["region"][at], initial)
        self.store.mark(at)
        np.subtract.at(self.tally.gained, before, 1)
        self.tally.gained += _counts(source)
        columns["source"][at] = source
        columns["changed_ns"][at] = events.time_ns
        self._note(events.time_ns)
        once = columns["gains"][at] == 1
        first = at[once]
        columns["first_source"][first] = source[once]
        columns["first_ns"][first] = events.time_ns[once]
        columns["first_fault"][first] = events.number[once]
        columns["first_kind"][first] = events.kind[once]
        seen = before[once] != Source.UFFD
        columns["confirmed"][first[seen]] = Confirmed.BOTH

    # -- releases -------------------------------------------------------

    def release(self, at: I64, time: I64 | int, cause: Loss | U8) -> None:
        count = len(at)
        if not count:
            return
        columns = self.columns
        self.store.mark(at)
        self.tally.count(self.tally.released_in, columns["region"][at])
        columns["frame"][at] = _NONE
        columns["changed_ns"][at] = time
        self._note(time)
        columns["doubt"][at] = 0
        columns["losses"][at] += np.uint32(1)
        columns["last_loss"][at] = np.asarray(cause, np.uint8)
        if isinstance(cause, np.ndarray):
            self.tally.released += _counts(cause)
        else:
            self.tally.released[cause] += count
        if self.watcher is not None:
            self.watcher.released(*self._places(at), time, np.asarray(cause, np.uint8))

    def release_one(self, at: int, time_ns: int, cause: int) -> None:
        """`release` of one page, which has a frame."""
        columns, tally = self.columns, self.tally
        self.store.mark_one(at)
        region = columns["region"].item(at)
        tally.released_in[region] = tally.released_in.get(region, 0) + 1
        tally.released[cause] += 1
        columns["frame"][at] = _NONE
        columns["changed_ns"][at] = time_ns
        columns["doubt"][at] = 0
        columns["losses"][at] += 1
        columns["last_loss"][at] = cause
        self.latest_ns = max(self.latest_ns, time_ns)

    def replace(self, at: I64, time: I64, cause: U8 | None = None) -> None:
        """Release the frames of those of these slots' pages that have one: they get another."""
        if not len(at):
            return
        had = self.columns["frame"][at] != _NONE
        if had.any():
            self.release(at[had], time[had], Loss.REPLACED if cause is None else cause[had])

    def doubt(self, at: I64, loss: U8 | Loss, time_ns: I64 | int) -> None:
        """A call that returned at `time_ns` may have released the frames of these slots' pages."""
        self.columns["doubt"][at] = loss
        self.columns["changed_ns"][at] = time_ns
        self.store.mark(at)
        self._note(time_ns)

    def settle(self, at: I64) -> None:
        """The frames of these slots' pages were mapped after the call in doubt."""
        self.columns["doubt"][at] = 0

    # -- both at once ---------------------------------------------------

    def come_and_go(self, space: Ids, events: Events, released_ns: I64, cause: U8) -> None:
        """Book faults that each mapped an absent page, released before the page's next fault.

        Equivalent to FaultRules.apply and ReleaseRules.release in turn, for any number of
        times a page. The events are in order; each frame was released at `released_ns`, for
        `cause`.
        """
        slots = self.slots(space, events.page)
        order = np.argsort(slots, kind="stable")
        slots, events = slots[order], events.select(order)
        space, released_ns, cause = space[order], released_ns[order], cause[order]
        columns = self.columns
        fresh = np.r_[True, slots[1:] != slots[:-1]]  # the page's first here
        head, tail = np.flatnonzero(fresh), np.flatnonzero(np.r_[fresh[1:], True])
        at = slots[head]
        # After an unmap the address belongs to a new mapping, as in gain.
        ended = np.r_[False, _ENDS[cause[:-1]]]
        ended[head] = _ENDS[columns["last_loss"][at]]
        first = ended.copy()
        first[head] |= columns["gains"][at] == 0
        number = np.arange(len(slots))
        latest = np.maximum.accumulate(np.where(first | fresh, number, 0))
        known = first[latest]  # else the page was known before these events
        region = np.where(known, events.region[latest], columns["region"][slots])
        last = latest[tail]
        anew, new = first[last], last[first[last]]
        again = np.where(ended[last], 0, columns["gains"][at])
        losses = np.where(ended[last], 0, columns["losses"][at])
        times = (tail - last + 1).astype(np.uint32)
        self.store.mark(at)
        for name, value in (
            ("first_ns", events.time_ns),
            ("first_frame", events.frame),
            ("first_source", events.source),
            ("first_fault", events.number),
            ("first_kind", events.kind),
            ("region", events.region),
        ):
            columns[name][at[anew]] = value[new]
        columns["confirmed"][at[anew]] = Confirmed.FAULT
        columns["gains"][at] = again + times
        columns["losses"][at] = losses + times
        columns["last_loss"][at] = cause[tail]
        columns["source"][at] = events.source[tail]
        columns["changed_ns"][at] = released_ns[tail]
        self._note(released_ns)
        self.tally.gained += _counts(events.source)
        self.tally.released += _counts(cause)
        self.tally.count(self.tally.gained_in, region)
        self.tally.count(self.tally.released_in, region)
        if self.watcher is not None:
            self.watcher.came_and_went(
                *(space, events.page, events.time_ns, events.frame, events.kind, events.source),
                *(released_ns, cause),
            )

    # -- what fork may have copied --------------------------------------

    def assume(
        self,
        at: I64,
        time_ns: int,
        frame: U64,
        region: U32,
    ) -> None:
        columns = self.columns
        self.store.mark(at)
        columns["frame"][at] = columns["first_frame"][at] = frame
        columns["region"][at] = region
        columns["changed_ns"][at] = columns["first_ns"][at] = time_ns
        self._note(time_ns)
        columns["first_source"][at] = columns["source"][at] = Source.FORK
        for name in ("gains", "losses", "last_loss", "first_fault", "first_kind", "confirmed"):
            columns[name][at] = 0
        columns["assumed"][at] = True
        if self.watcher is not None and len(at):
            sources = np.full(len(at), Source.FORK, np.uint8)
            self.watcher.gained(*self._places(at), time_ns, frame, Kind.UNKNOWN.value, sources)

    def confirm(self, at: I64) -> None:
        """A snapshot shows these slots' pages in the ledger's frames: none is in doubt."""
        columns = self.columns
        columns["doubt"][at] = 0
        self.confirm_inherited(at[columns["assumed"][at].astype(np.bool_)])
        once = at[columns["gains"][at] == 1]
        same = columns["first_frame"][once] == columns["frame"][once]
        columns["confirmed"][once[same]] = Confirmed.BOTH

    def confirm_inherited(self, at: I64) -> None:
        """These slots' pages were inherited by fork."""
        self.store.mark(at)
        self.columns["assumed"][at] = False
        self.columns["gains"][at] = 1
        self.tally.gained[Source.FORK] += len(at)
        self.tally.count(self.tally.gained_in, self.columns["region"][at])

    def forget(self, at: I64) -> None:
        """These slots' pages were not inherited by fork, as had been assumed."""
        self.store.mark(at)
        if self.watcher is not None and len(at):
            self.watcher.released(*self._places(at), 0, Loss.NONE.value)
        self.columns["assumed"][at] = False
        self.columns["frame"][at] = _NONE
        self.columns["first_source"][at] = 0
        self.columns["source"][at] = 0

    # -- changes that no record explains, yet ---------------------------

    def leave_unexplained(
        self, spaces: Ids, at: I64, old: U64, new: U64, *, released: bool
    ) -> None:
        """Note that no record explains the change of these slots' pages, yet."""
        for space in distinct_spaces(spaces):
            mine = spaces == space
            self._unexplained.add(space, at[mine], old[mine], new[mine], released=released)

    def claim(self, space: int, at: I64) -> None:
        """Drop what these slots' pages gained from `unexplained`: a record explains it."""
        self._unexplained.claim(space, at)

    def has_unexplained(self, space: int) -> bool:
        """Whether `pop_unexplained` would return any."""
        return space in self._unexplained

    def pop_unexplained(self, space: int) -> Changes | None:
        """Pop the changes without a record that faults have found since the last call."""
        return self._unexplained.pop(space)

    def explain(self, changes: Changes, words: U8) -> None:
        """Book the causes: a Loss for each of `changes` that is a loss, else a Source."""
        tally, columns = self.tally, self.columns
        for released, counts, unknown, names in (
            (True, tally.released, Loss.UNKNOWN, ("last_loss",)),
            (False, tally.gained, Source.UNKNOWN, ("first_source", "source")),
        ):
            mine = changes.released == released
            at, said = changes.at[mine], words[mine]
            counts[unknown] -= len(at)
            np.add.at(counts, said, 1)
            if not released:  # what was mapped before the trace is no gain
                tally.uncount(tally.gained_in, columns["region"][at[said == Source.INITIAL]])
            for name in names:
                still = columns[name][at] == unknown
                columns[name][at[still]] = said[still]

    # -- look-ups -------------------------------------------------------

    def slots(self, spaces: Ids, pages: U64) -> I64:
        distinct = distinct_spaces(spaces)
        if len(distinct) == 1:
            return self.store.slots(distinct[0], pages)
        slots = np.empty(len(pages), np.int64)
        for space in distinct:
            mine = spaces == space
            slots[mine] = self.store.slots(space, pages[mine])
        return slots

    def state(self, space: int, pages: U64) -> I64:
        """The slots of `pages` (virtual page numbers), made where new: indices into columns."""
        return self.store.slots(space, pages)

    def few(self, space: int, start: int, end: int) -> list[int] | None:
        """The slots of pages in [start, end) that have a frame, where these are few; else None.

        Few are handled faster one by one than as arrays; a watcher needs arrays.
        """
        if end - start > _FEW_BYTES or self.watcher is not None:
            return None
        frame = self.columns["frame"]
        slots = self.store.known(space, start >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT)
        return [at for at in slots if frame.item(at) != NO_FRAME]

    def resident(self, space: int) -> I64:
        """The slots of all pages of a space that have a frame, in address order."""
        at = self.store.all(space)
        return np.asarray(at[self.columns["frame"][at] != _NONE])

    def touched(self, space: int) -> I64:
        """The slots of all pages of a space that ever gained a frame, in address order."""
        at = self.store.all(space)
        return np.asarray(at[self.columns["gains"][at] > 0])

    def resident_in(self, space: int, numbers: U64) -> I64:
        """As `resident`, but only in these blocks (64 pages each; ascending)."""
        at = self.store.blocks(space, numbers)[1].ravel()
        return np.asarray(at[self.columns["frame"][at] != _NONE])

    def pages_at(self, at: I64) -> U64:
        """The virtual page numbers behind slots."""
        return self.store.pages_at(at)

    def changed_ns(self, spaces: Ids, pages: U64) -> I64:
        """When each page last gained or released a frame; 0 where it never had one."""
        slots = self.slots(spaces, pages)  # which may make the columns longer
        return np.asarray(self.columns["changed_ns"][slots])

    def _places(self, at: I64) -> tuple[Ids, U64]:
        """The spaces and the virtual page numbers of slots."""
        return self.store.spaces_at(at), self.store.pages_at(at)

    def _note(self, time: I64 | int) -> None:
        last = int(time.max(initial=0)) if isinstance(time, np.ndarray) else time
        self.latest_ns = max(self.latest_ns, last)

    # -- what changed since a snapshot ----------------------------------

    def pop_changed(self, space: int) -> U64:
        """Return the numbers of the blocks (64 pages) changed since the last call."""
        numbers = self.store.marked(space, clear=True)
        self._compared[space] = numbers
        return numbers

    def changed_since(self, space: int, time_ns: int) -> bool:
        """Whether a page that ever had a frame changed at `time_ns` or later.

        Considers what changed since `pop_changed` or was kept (`keep_changed`) then.
        """
        _, at = self.store.blocks(space, self.store.marked(space))
        late = self.columns["changed_ns"][at] >= time_ns
        return bool((late & (self.columns["gains"][at] > 0)).any())

    def keep_changed(self, space: int, numbers: U64, time_ns: int) -> None:
        """Mark those of these blocks that changed at `time_ns` or later for the next snapshot."""
        _, at = self.store.blocks(space, numbers)
        late = (self.columns["changed_ns"][at] >= time_ns).any(axis=1)
        self.store.mark(at[late])

    def mark(self, at: I64) -> None:
        """Mark these slots' pages to be compared again."""
        self.store.mark(at)

    # -- the end of a space ---------------------------------------------

    def retire(self, space: int, time_ns: int) -> None:
        """The space ended then: archive its pages' history, free its blocks."""
        watcher, self.watcher = self.watcher, None  # which sees the end itself
        self.release(self.resident(space), time_ns, Loss.EXIT)
        self.watcher = watcher
        self.archive.put(space, WHOLE, self.store.rows(self.touched(space)))
        self._compared.pop(space, None)
        self.store.release(space)

    def tidy(self, space: int, before_ns: int) -> None:
        """Archive the blocks of a space that have had no frame since `before_ns`.

        Of those that `pop_changed` returned last: the others were handled before. What is
        marked to be compared again stays until it was.
        """
        numbers, slots = self.store.blocks(space, self._compared.pop(space, _NO_BLOCKS))
        if space in self._unexplained:
            self.store.mark(slots)  # it refers to pages by slot
            return
        idle = (self.columns["frame"][slots] == _NONE).all(axis=1)
        idle &= self.columns["changed_ns"][slots].max(axis=1, initial=0) < before_ns
        idle &= ~self.store.is_marked(slots[:, 0])
        for index in np.flatnonzero(idle).tolist():
            at = slots[index]
            self.store.put_away(space, numbers[index], at[self.columns["gains"][at] > 0])

    def history(self, space: int) -> dict[str, npt.NDArray[Any]]:
        """Every column, and `page` (virtual page numbers), of all pages that gained a frame."""
        rows = [self.store.rows(self.touched(space)), *self.archive.of(space)]
        together = np.concatenate(rows)
        # An archived row may be of a page that was mapped anew: the first of each is current.
        _, first = np.unique(together["page"], return_index=True)
        return {name: together[name][first] for name in together.dtype.names or ()}

    def pop_history(self, space: int) -> dict[str, npt.NDArray[Any]]:
        """`history`, and drop all that is kept of the space."""
        history = self.history(space)
        self.archive.drop(space)
        self.store.release(space)
        return history


def _counts(values: U8) -> I64:
    """How often each source or cause occurs, by value."""
    return np.bincount(values, minlength=32)
