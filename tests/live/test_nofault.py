"""What is a failed fault and what is none: the kernel's attempts, waits a signal broke off."""

from tests.live.tracing import check_all, trace
from tracer.probes.choose import Attached


def test_a_signals_frame(attached: Attached) -> None:
    """The kernel tries to write it without faulting, and faults its page in when that fails."""
    traced = trace(attached, "signal-frame", 23)
    check_all(traced, "anon")
    again = traced.within(traced.report.ranges["anon"])
    assert traced.kinds(traced.report.ranges["anon"]) == {"anon": 23}, again["address"]
    assert traced.books.failed == 0


def test_a_futexs_word(attached: Attached) -> None:
    """As with the frame, but the page comes by get_user_pages, which no perf event reports."""
    traced = trace(attached, "futex", 23)
    check_all(traced, "anon", blind=("futex",))
    expected = {} if traced.probe == "perf" else {"anon": 23}
    assert traced.kinds(traced.report.ranges["anon"]) == expected
    assert traced.books.failed == 0


def test_a_wait_that_a_signal_breaks_off(attached: Attached) -> None:
    """The handler's own fault is one more, and the first one is recorded when it has its page."""
    traced = trace(attached, "interrupted", 23)
    check_all(traced, "anon", "elsewhere")
    ranges = traced.report.ranges
    assert traced.kinds(ranges["elsewhere"]) == {"anon": 23}
    assert len(traced.within(ranges["anon"])) == 23
    assert traced.books.failed == 0


def test_a_failure_inside_a_system_call(attached: Attached) -> None:
    """The file has no such page: the call returns EFAULT, and older kernels try twice."""
    traced = trace(attached, "refused", 23)
    check_all(traced, "after")
    failed = traced.within(traced.report.ranges["file"])
    assert set(traced.kinds(traced.report.ranges["file"])) == {"failed"}
    pages = {int(address) & ~4095 for address in failed["address"]}
    assert pages == set(traced.report.ranges["file"].addresses())
    assert traced.books.failed == len(failed)
