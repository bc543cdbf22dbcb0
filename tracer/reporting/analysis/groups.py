"""Faults in groups: counts, pages gained, latencies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64, U32
from tracer.reporting.reading.codes import Codes, by_code, combined, dense_codes
from tracer.reporting.reading.run import Faults, Run

SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Latency:
    """Of some faults: nanoseconds, -1 where none is known. Quantiles are exact."""

    total: int
    p50: int
    p90: int
    p99: int
    longest: int


@dataclass(frozen=True)
class Group:
    """Some faults of a run."""

    faults: int
    major: int
    gained: int  # pages
    first_ns: int  # when the first of them was done
    last_ns: int
    latency: Latency


NOTHING = Group(0, 0, 0, -1, -1, Latency(0, -1, -1, -1, -1))


def latency_of(values: I64) -> Latency:
    """The quantiles of latencies, unknown ones left out. Reorders `values`."""
    values = values[values >= 0]
    if not len(values):
        return NOTHING.latency
    ranks = [max(0, int(np.ceil(share * len(values))) - 1) for share in SHARES]
    values.partition([*ranks, len(values) - 1])
    p50, p90, p99 = (int(values[rank]) for rank in ranks)
    return Latency(int(values.sum()), p50, p90, p99, int(values[-1]))


def group(faults: Faults, codes: Codes, count: int) -> list[Group]:
    """The groups of faults by `codes`, numbers from 0 below `count`."""
    order, parts = by_code(codes, count)
    time_ns, latency = faults.time_ns[order], faults.latency_ns[order]
    major, pages = faults.major[order], faults.pages[order]
    return [
        Group(
            faults=part.stop - part.start,
            major=int(major[part].sum()),
            gained=int(pages[part].sum(dtype=np.int64)),
            first_ns=int(time_ns[part.start]),
            last_ns=int(time_ns[part.stop - 1]),
            latency=latency_of(latency[part]),
        )
        if part.stop > part.start
        else NOTHING
        for part in parts
    ]


def whole(faults: Faults) -> Group:
    """All faults as one group."""
    if not len(faults):
        return NOTHING
    return Group(
        faults=len(faults),
        major=int(faults.major.sum()),
        gained=int(faults.pages.sum(dtype=np.int64)),
        first_ns=int(faults.time_ns[0]),
        last_ns=int(faults.time_ns[-1]),
        latency=latency_of(faults.latency_ns.copy()),
    )


def regions(run: Run) -> tuple[Codes, list[tuple[str, str]]]:
    """The region of each fault: a mapping's name and permissions together."""
    region, perms = run.faults.region, run.faults.perms
    codes, pairs = combined((region.codes, len(region.words)), (perms.codes, len(perms.words)))
    return codes, [(region.words[name], perms.words[perm]) for name, perm in pairs]


def threads(run: Run) -> tuple[Codes, list[tuple[int, int, str]]]:
    """The thread of each fault: its process (whose memory it was), its id, its latest name."""
    faults = run.faults
    pids, pid_codes = _numbers(faults.pid)
    tids, tid_codes = _numbers(faults.tid)
    codes, pairs = combined((pid_codes, len(pids)), (tid_codes, len(tids)))
    latest = np.zeros(len(pairs), np.int64)
    latest[codes] = faults.comm.codes  # of several writes to one place the last one stays
    return codes, [
        (pids[pid], tids[tid], faults.comm.words[comm])
        for (pid, tid), comm in zip(pairs, latest.tolist(), strict=True)
    ]


def _numbers(values: U32) -> tuple[list[int], Codes]:
    if len(values) and int(values.max()) < 1 << 22:  # pid_max: proc_sys_kernel(5)
        found, dense = dense_codes(values, 1 << 22)
    else:
        found, dense = np.unique(values, return_inverse=True)
    return found.tolist(), dense


def largest(groups: Sequence[Group]) -> Iterator[int]:
    """The numbers of the groups with any fault, most faults first."""
    order = sorted(range(len(groups)), key=lambda at: (-groups[at].faults, groups[at].first_ns))
    return (at for at in order if groups[at].faults)
