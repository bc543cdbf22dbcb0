"""The live view: receives faults and page changes, and draws them when there is time."""

import bisect
import select
import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.color import ColorSystem
from rich.console import Console

from tracer.common.fields import distinct
from tracer.common.types import I64, U8, U64, Ids
from tracer.live.canvas import Painter
from tracer.live.keys import Keys
from tracer.live.model import Area, Facts, Model
from tracer.live.pages import CHANGE, State, gains, losses, newer, states
from tracer.live.screen import compose
from tracer.live.stage import Stage
from tracer.live.terminal import Terminal
from tracer.live.theme import YOUNG_NS, Charset
from tracer.live.view import View
from tracer.model.result import Books
from tracer.model.rows import ANONYMOUS, Names, Region, Rows
from tracer.model.sources import Source
from tracer.outputs.filters import RowFilter
from tracer.session.recorder import Recorder
from tracer.snapshots.snapshots import Snapshot

Times = I64 | int
Bytes = U8 | int

_FRAME_NS = 100_000_000  # ten pictures a second at most
_SHARE = 24  # pictures may take 4 % of one processor's time …
_HOLD = 9  # … and keep the trace waiting for a tenth of it
_GLOW_NS = 500_000_000  # while colours fade
_CLOCK_NS = 1_000_000_000  # where nothing happens
_ESCAPE_NS = 50_000_000  # how long the rest of a key's sequence may take
_FULL = 32  # with more than this part of the ring waiting, no picture …
_LATE_NS = 2_000_000_000  # … but for one now and then
_MOST_SPACES = 64
_COLOURS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}


class Live:
    """An output, the session's screen, and the timeline's watcher, in one.

    `stop` ends the trace; `zero_frame` is the physical address of the shared zero page.
    """

    def __init__(
        self,
        facts: Facts,
        names: Names,
        terminal: Terminal,
        charset: Charset,
        row_filter: RowFilter,
        stop: Callable[[], None],
        zero_frame: int,
        stage: Stage | None = None,
    ) -> None:
        self.model = Model(facts, names)
        self.view = View()
        self.terminal = terminal
        self._charset = charset
        self._picks = row_filter
        self._stop = stop
        self._zero_frame = zero_frame
        self._stage = stage
        self._keys = Keys()
        self._painter = Painter(_colours())
        self._seen: dict[int, tuple[list[Region], tuple[Area, ...]]] = {}  # by space
        self._known: set[int] = set()  # spaces that had a snapshot
        self._shown: tuple[object, ...] = ()
        self._drawn_ns = 0  # when the last picture was done
        self._pause_ns = 0  # until the next picture
        self._events = 0  # of frames, counted so far
        self._resident: int | None = None  # as last counted
        self._pressed_ns = 0
        self._missed_ns = 0
        self._forced = False
        self._behind = False  # there is no time for more than counts
        self._stale: set[int] = set()  # spaces whose changes were skipped

    # -- an output -------------------------------------------------------------------

    def write(self, rows: Rows, names: Names) -> None:
        """Receive a batch of faults."""
        self.model.write(rows, names)

    def close(self) -> None:
        """Nothing to release: the terminal is its owner's."""

    # -- a watcher ---------------------------------------------------------------------

    def gained(
        self, spaces: Ids, pages: U64, times: Times, frames: U64, kinds: Bytes, sources: Bytes
    ) -> None:
        """Pages gained frames."""
        if self._behind:
            self._stale.update(distinct(spaces))
            return
        made = gains(spaces, pages, times, frames, kinds, self._zero_frame)
        initial = np.broadcast_to(np.asarray(sources) == Source.INITIAL, len(made))
        if initial.any():
            self.model.change(made[initial], initial=True)
            made = made[~initial]
        self.model.change(made)

    def released(self, spaces: Ids, pages: U64, times: Times, causes: Bytes) -> None:
        """Pages' frames were released."""
        if self._behind:
            self._stale.update(distinct(spaces))
            return
        self.model.change(losses(spaces, pages, times, causes))

    def came_and_went(
        self,
        spaces: Ids,
        pages: U64,
        times: Times,
        frames: U64,
        kinds: Bytes,
        sources: Bytes,
        released_ns: Times,
        causes: Bytes,
    ) -> None:
        """Pages gained frames, and these were released again."""
        if self._behind:
            self._stale.update(distinct(spaces))
            return
        made = gains(spaces, pages, times, frames, kinds, self._zero_frame)
        gone = losses(spaces, pages, released_ns, causes)
        self.model.change(np.stack([made, gone], axis=1).ravel())

    # -- a screen ----------------------------------------------------------------------

    @property
    def fds(self) -> Sequence[int]:
        """The keyboard, and what the command writes to."""
        return [self.terminal.keyboard, *([self._stage.ours] if self._stage else [])]

    def show(self, recorder: Recorder) -> None:
        """Read the keys; draw a picture if it is time and the ring is not filling up."""
        if not self.terminal.ours:  # the first snapshot, before anything is shown
            return
        now = time.monotonic_ns()
        self._tend(now)
        if self.view.leaving or self.terminal.closed:
            self._stop()
            return
        began = time.thread_time_ns()
        self._behind = recorder.parts.ring.pending() * _FULL > recorder.parts.ring.capacity
        self.model.busy = self._behind
        self._count_frames(recorder, now)
        if not self._due(now) or (self._behind and now < self._drawn_ns + _LATE_NS):
            return
        if not self._behind:
            self._set_areas(recorder, now)
            for space in list(self._stale):
                self._catch_up(recorder, space)
        counters = recorder.parts.attached.program.counters()
        counts = self.model.counts
        counts.lost = counters["lost"] + recorder.gaps.unread.faults
        counts.lost_other = counters["lost_other"]
        if now > self._missed_ns + _CLOCK_NS:
            self._missed_ns = now
            counts.missed = (
                max(recorder.gaps.missed(), 0) if not recorder.parts.ring.pending() else 0
            )
        self._draw(now, began)

    def _count_frames(self, recorder: Recorder, now: int) -> None:
        tally = recorder.parts.timeline.ledger.tally
        if tally.events != self._events:
            self._events = tally.events
            gained = int(tally.gained.sum() - tally.gained[Source.INITIAL])
            self.model.frames(now, tally.mapped, gained, int(tally.released.sum()))
        if recorder.parts.resident.now != self._resident:
            self._resident = recorder.parts.resident.now
            self.model.resident(now, self._resident or 0)

    def _catch_up(self, recorder: Recorder, space: int) -> None:
        """Read from the timeline the changes that were skipped for lack of time."""
        self._stale.discard(space)
        timeline = recorder.parts.timeline
        at = timeline.ledger.touched(space)
        self.model.settle()
        made = states(
            space,
            timeline.ledger.pages_at(at),
            timeline.ledger["changed_ns"][at],
            timeline.ledger["frame"][at],
            timeline.ledger["first_kind"][at],
            timeline.ledger["last_loss"][at],
            self._zero_frame,
        )
        table = self.model.history.now.get(space)
        self.model.change(made if table is None else newer(table, made))

    def snapshot_taken(self, recorder: Recorder, space: int, shot: Snapshot) -> None:
        """Read a snapshot's mappings and its swapped-out pages."""
        owner = recorder.parts.spaces.find(space)
        present = owner.history.present() if owner is not None else []
        regions = _split_merged(
            [Region(m.start, m.end, m.perms, m.offset, m.name, m.device) for m in shot.mappings],
            present,
        )
        self._seen[space] = present, self._areas(space, shot.pid, regions)
        if owner is None or owner.ended_ns is not None:
            self.model.set_areas(shot.after_ns, self._seen[space][1])
        self._swapped(space, shot)
        if space in self._stale and (not self._behind or self.model.ended):
            self._catch_up(recorder, space)

    def _swapped(self, space: int, shot: Snapshot) -> None:
        first = space not in self._known
        self._known.add(space)
        if not len(shot.swapped):
            return
        self.model.settle()
        table = self.model.history.now.get(space)
        pages = shot.swapped
        if table is not None and len(table):
            at = np.minimum(np.searchsorted(table["page"], pages), len(table) - 1)
            known = (table["page"][at] == pages) & (table["state"][at] == State.SWAPPED)
            pages = pages[~known]
        made = np.zeros(len(pages), CHANGE)
        made["page"], made["space"], made["state"] = pages, space, State.SWAPPED
        made["time_ns"] = shot.before_ns
        self.model.change(made, initial=first)

    # -- the end -----------------------------------------------------------------------

    def finish(self, books: Books, ended_ns: int) -> None:
        """The trace is over: these are its books."""
        model = self.model
        model.ended = True
        model.latest_ns = max(model.latest_ns, ended_ns)
        model.counts.lost, model.counts.missed = books.lost, max(books.missed, 0)
        model.counts.lost_other = books.lost_other
        model.version += 1

    def linger(self, leave: Callable[[], bool]) -> None:
        """Keep the picture, to be read and gone through in time, until `q` or `leave`."""
        self._forced = True
        poller = select.poll()
        for fd in self.fds:
            poller.register(fd, select.POLLIN)
        while not (self.view.leaving or self.terminal.closed or leave()):
            now = time.monotonic_ns()
            self._tend(now)
            if self._due(now):
                self._draw(now, time.thread_time_ns())
            poller.poll(_FRAME_NS // 2_000_000)
            time.sleep(0.02)  # output of the command is no reason for haste

    # -- pictures ------------------------------------------------------------------------

    def _tend(self, now: int) -> None:
        """Read the keyboard and the command's output."""
        typed = self.terminal.read()
        keys = self._keys.feed(typed) if typed else []
        if typed:
            self._pressed_ns = now
        elif self._keys.waiting and now > self._pressed_ns + _ESCAPE_NS:
            keys = self._keys.timeout()
        for key in keys:
            if key == "redraw":
                self._painter.forget()
            self.view.press(key, self.model, command=self._stage is not None)
        self._forced = self._forced or bool(keys)
        if self._stage is not None:
            self._stage.send(b"".join(self.view.sent))
            self._forced = self._stage.read() or self._forced
        self.view.sent.clear()
        if self.terminal.resumed:
            self.terminal.enter()
            self._painter.forget()
            self._forced = True

    def _due(self, now: int) -> bool:
        since = now - self._drawn_ns
        if since < max(_FRAME_NS, self._pause_ns) or self.terminal.behind:
            return False
        if self._forced or self._shown != self._state():
            return True
        if self.model.ended or self.view.at_ns is not None:
            return False
        glowing = now - self.model.latest_ns < YOUNG_NS + _CLOCK_NS
        return since >= (_GLOW_NS if glowing else _CLOCK_NS)

    def _state(self) -> tuple[object, ...]:
        """What a picture depends on, time aside."""
        counts = self.model.counts
        return self.terminal.size(), self.model.version, counts.lost, counts.lost_other

    def _draw(self, now: int, began: int) -> None:
        """A picture of `now`, for which work `began` (CPU time of this thread, ns)."""
        self._forced = False
        self._shown = self._state()
        columns, rows = self.terminal.size()
        if self._stage is not None:
            self._stage.resize(columns, rows)
        said = None if self._stage is None else self._stage.said()
        canvas = compose(self.model, self.view, columns, rows, self._charset, now, said)
        self.terminal.write(self._painter.paint(canvas))
        self._drawn_ns = time.monotonic_ns()
        spent = time.thread_time_ns() - began
        self._pause_ns = min(max(_SHARE * spent, _HOLD * (self._drawn_ns - now)), _LATE_NS)

    # -- mappings ------------------------------------------------------------------------

    def _set_areas(self, recorder: Recorder, now: int) -> None:
        """Set the mappings of the live address spaces; those of the last, where none lives."""
        areas: list[Area] = []
        spaces = [space for space in recorder.parts.spaces.alive() if space.members]
        for space in spaces[:_MOST_SPACES]:
            present = space.history.present()
            seen = self._seen.get(space.number)
            if seen is None or seen[0] != present:
                mine = self._areas(space.number, space.owner, present)
                seen = self._seen[space.number] = present, mine
            areas += seen[1]
        if areas:
            self.model.set_areas(now, tuple(areas))
        alive = {space.number for space in spaces}
        for number in [number for number in self._seen if number not in alive]:
            del self._seen[number]

    def _areas(self, space: int, pid: int, regions: Sequence[Region]) -> tuple[Area, ...]:
        return tuple(
            Area(space, pid, region.start, region.end, region.perms, region.name)
            for region in regions
            if self._picks.wants(region)
        )


def _split_merged(listed: Sequence[Region], present: Sequence[Region]) -> list[Region]:
    """The mappings of /proc/PID/maps; anonymous ones split where the kernel merged two."""
    cuts = sorted(region.start for region in present if region.name in ANONYMOUS)
    found = []
    for region in listed:
        start = region.start
        if region.name in ANONYMOUS:
            first = bisect.bisect_right(cuts, start)
            for cut in cuts[first : bisect.bisect_left(cuts, region.end)]:
                found.append(region._replace(start=start, end=cut))
                start = cut
        found.append(region._replace(start=start))
    return found


def _colours() -> ColorSystem | None:
    """What the terminal shows, by TERM, COLORTERM and NO_COLOR."""
    console = Console(force_terminal=True)
    return None if console.no_color else _COLOURS.get(console.color_system or "")
