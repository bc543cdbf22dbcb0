"""Where the probes keep what they know of a thread's fault under way."""

import numpy as np
import pytest

from tests.live.tracing import check_all, trace
from tracer.probes.choose import Attached
from tracer.probes.compiled import SLOTS


@pytest.mark.parametrize(("name", "numbers"), [("threads", (17, 16)), ("late-threads", (31, 7))])
def test_threads_whose_slots_are_in_use(
    attached: Attached, name: str, numbers: tuple[int, ...]
) -> None:
    """Threads with the same number modulo SLOTS: here others have all of the slots.

    These go by a hash map, and nothing else changes.
    """
    slots = attached.program.map("slots")
    used = np.zeros((SLOTS, slots.value_size // SLOTS), np.uint8)
    used.view(attached.program.layout.structs["pending"])["task"] = 1
    slots.update(bytes(4), used.tobytes())
    traced = trace(attached, name, *numbers)
    check_all(traced, "anon")
    assert attached.program.counters()["crowded"] == 0
    if not traced.inexact:
        assert len(traced.within(traced.report.ranges["anon"])) == numbers[0] * numbers[1]
