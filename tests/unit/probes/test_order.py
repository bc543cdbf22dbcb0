"""Which probes were passed over, in the few words that a summary has room for."""

import pytest

from tracer.probes import fentry, kprobe
from tracer.probes.order import in_short, named, order

REFUSED = "kprobe: the kernel has no kprobes"


@pytest.fixture
def preempted(monkeypatch: pytest.MonkeyPatch) -> str:
    """Why fentry is not exact here: that it works is not in doubt."""
    monkeypatch.setattr(fentry, "inexact", lambda: "handlers can be preempted here")
    return named("fentry", fentry.inexact())


def test_what_works_and_is_not_exact_is_not_unavailable(preempted: str) -> None:
    assert in_short([preempted]) == "fentry not exact here: see --check"
    both = "kprobe unavailable, fentry not exact here: see --check"
    assert in_short([preempted, REFUSED]) == in_short([REFUSED, preempted]) == both


def test_what_was_tried_nevertheless_and_refused_is_unavailable(preempted: str) -> None:
    refused = "fentry: the kernel does not load it: Operation not permitted"
    assert in_short([refused, REFUSED]) == "fentry, kprobe unavailable: see --check"
    assert in_short([preempted, refused]) == "fentry unavailable: see --check"


def test_what_is_not_exact_is_tried_last(preempted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in (fentry, kprobe):
        monkeypatch.setattr(probe, "refused", lambda ids: "")
    names, reasons = order("auto", ["perf"], {})
    assert names == ["kprobe", "fentry"]
    assert reasons == [preempted]
