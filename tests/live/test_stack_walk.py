"""The walk of stacks by unwind rules: what it takes the verifier, and a kernel that refuses it."""

import errno
import json
import os
from typing import Any

import pytest

from tests.live.tracing import trace
from tracer.common.resources import bpf_dir
from tracer.probes import bpf
from tracer.probes.choose import Attached, attach
from tracer.probes.order import PROBES
from tracer.session.plan import Plan

N = 37
LIMIT = 1_000_000  # instructions the verifier follows at most (BPF_COMPLEXITY_LIMIT_INSNS)
MOST = 800_000  # … of which a new kernel's may need some more than those there are


def test_the_verifier_has_room(attached: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many instructions it follows to check each program: those with stacks are the largest."""
    counts: dict[str, int] = {}
    load = bpf.load_program

    def counting(kind: int, code: bytes, name: str, *more: Any) -> int:
        counts[f"{probe} {name}"] = bpf.verified(kind, code, name, *more)
        return load(kind, code, name, *more)

    monkeypatch.setattr(bpf, "load_program", counting)
    for probe in sorted({*PROBES} if os.environ.get("PAGEFAULT_GUEST") else {attached.probe.name}):
        attach(probe, bpf_dir(), stacks=True).close()
        largest = max(counts, key=lambda name: counts[name])
        print(f"verifier: {counts[largest]:,} instructions for {largest}")
    assert max(counts.values()) < MOST, json.dumps(counts)


def test_a_kernel_that_refuses_the_walk(
    attached: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then stacks are walked by frame pointers, and the tracer says so."""
    load = bpf.load_program

    def refusing(*arguments: Any) -> int:
        if any(isinstance(each, tuple) and each[1] for each in arguments):
            refused = bpf.Refused(errno.E2BIG, "Argument list too long")
            refused.log = "BPF program is too large. Processed 1000001 insn"
            raise refused
        return load(*arguments)

    monkeypatch.setattr(bpf, "load_program", refusing)
    probe = attach(attached.probe.name, bpf_dir(), stacks=True)
    try:
        assert "too large" in probe.walk
        found = trace(probe, "stacks", N, plan=Plan(snapshot_interval_ms=600_000, stacks=True))
    finally:
        probe.close()
    numbers = found.within(found.report.ranges["written"])["stack"].tolist()
    outer = ["stack_writes", "stack_middle", "stack_outer", "do_stacks"]
    assert {tuple(found.stacks[number][:4]) for number in numbers} == {tuple(outer)}
