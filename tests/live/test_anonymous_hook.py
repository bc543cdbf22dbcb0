"""The hook on do_anonymous_page: it says what the page-table entries say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.live.workload import Workload
from tracer.probes.choose import Attached
from tracer.probes.program import Program
from tracer.wire.records import Mark, RecordType


@contextmanager
def hooked(attached: Attached) -> Iterator[Program]:
    """The session's own program with that hook for a while: compiling one more takes long."""
    program = attached.program
    before = len(program._links)
    attached.probe.attach_anonymous(program)
    try:
        yield program
    finally:
        for link in program._links[before:]:
            os.close(link)
        del program._links[before:]
        program.hooks_anonymous = False


def test_anonymous_faults_are_marked(attached: Attached) -> None:
    """Where it can be hooked, and asked for; each first write of the workload goes through it."""
    assert not attached.program.hooks_anonymous
    layout = attached.program.layout
    with (
        Workload("threads", 37, 5) as work,
        hooked(attached) as program,
        program.open_ring() as ring,
    ):
        program.add_target(work.pid, children=False)
        work.go()
        program.clear_targets()
        faults = ring.read(1 << 20).view(layout.fault).ravel()
        range_ = work.report.ranges["anon"]
        can = program.hooks_anonymous
    faults = faults[faults["type"] == RecordType.FAULT]
    inside = (faults["address"] >= range_.start) & (faults["address"] < range_.end)
    marked = (faults["marks"][inside] & Mark.ANON_FN) != 0
    assert len(marked) or attached.probe.inexact()
    assert marked.all() if can else not marked.any()
