"""Large folios: one fault brings many pages, all of them recorded with it."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.live.features import THP, knob
from tests.live.tracing import check_books, check_counts, check_frames, check_resident, trace
from tracer.probes.choose import Attached


@pytest.mark.parametrize("kib", [16, 64, 128, 512])
def test_anonymous(attached: Attached, mthp: Callable[..., None], kib: int) -> None:
    """A write to any page of a folio brings all of it; frames follow each other."""
    mthp(kib, "madvise")
    pages, folios = kib // 4, 3
    traced = trace(attached, "mthp", folios, pages, 0, pages // 3)
    check_counts(traced)
    check_frames(traced, "folios")
    check_books(traced)
    check_resident(traced)
    range_ = traced.report.ranges["folios"]
    assert traced.kinds(range_) == {"anon": folios}
    assert traced.within(range_)["pages"].tolist() == [pages] * folios
    assert traced.sources(range_) == {"fault": folios, "around": folios * (pages - 1)}


@pytest.mark.parametrize("kib", [64, 256])
def test_shared(attached: Attached, machine: ExitStack, kib: int) -> None:
    """Shared anonymous memory in folios (6.11), which are mapped whole."""
    setting = THP / f"hugepages-{kib}kB" / "shmem_enabled"
    if not setting.exists():
        pytest.skip("multi-size huge pages in shmem")
    machine.enter_context(knob(setting, "always"))
    pages, folios = kib // 4, 3
    traced = trace(attached, "mthp", folios, pages, 1, pages // 3)
    check_counts(traced)
    check_frames(traced, "folios")
    check_books(traced)
    check_resident(traced)
    range_ = traced.report.ranges["folios"]
    assert traced.kinds(range_) == {"shmem": folios}
    assert traced.within(range_)["pages"].tolist() == [pages] * folios
    assert traced.sources(range_) == {"fault": folios, "around": folios * (pages - 1)}
