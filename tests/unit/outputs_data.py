"""Rows, names and tables for the tests of the outputs."""

import re
from typing import Any

import numpy as np

from tracer.common.pages import NO_FRAME
from tracer.model.result import PageTable, RunInfo
from tracer.model.rows import ROW, Access, Cause, Confirmed, Kind, Names, Region, Rows
from tracer.model.sources import Source

START = 1_000_000_000
PAGE = 4096


def info(**changes: Any) -> RunInfo:
    facts: dict[str, Any] = {
        "host": "host",
        "kernel": "6.12.1",
        "command": ["multimap", "--auto"],
        "pids": [4242],
        "probe": "perf",
        "probe_reason": "fentry: refused; kprobe: not compiled in",
        "probe_brief": "fentry and kprobe are refused here",
        "started_monotonic_ns": START,
        "started_wall_ns": 1_700_000_000_000_000_000,
        "ended_monotonic_ns": START + 1_234_567_890,
        "snapshot_interval_ms": 100,
        "snapshots": 3,
    }
    return RunInfo(**{**facts, **changes})


def rows(count: int, **columns: Any) -> Rows:
    """`count` first writes to neighbouring anonymous pages, but for what `columns` says."""
    made = np.zeros(count, ROW)
    index = np.arange(count)
    made["number"] = index + 1
    made["time_ns"] = START + index * 1_000_000
    made["pid"] = made["tid"] = 4242
    made["space"] = made["pages"] = 1
    made["address"] = 0x7F03141A2000 + index * PAGE
    made["access"], made["cause"], made["kind"] = Access.WRITE, Cause.USER, Kind.ANON
    made["latency_ns"] = 1380
    made["frame"] = 0x28664D000 + index * PAGE
    made["frame_before"] = NO_FRAME
    made["ip"] = 0x401000
    made["count"] = index + 100
    made["confirmed"] = Confirmed.BOTH
    for name, values in columns.items():
        made[name] = values
    return Rows.from_records(made)


def names(region: str = "[anon]", comm: str = "multimap", perms: str = "rwxp") -> Names:
    """Names of which number 1 is `comm` and `region`."""
    made = Names()
    made.comms.append(comm)
    made.regions.append(Region(0x7F03141A2000, 0x7F03142A2000, perms, 0x3000, region))
    return made


def five(**columns: Any) -> Rows:
    """The demo's pages: written from the highest down."""
    address = 0x7F03141A6000 - np.arange(5) * PAGE
    frame = [0x28664D000, 0x318603000, 0x1C9B89000, 0x2A0001000, 0x199F4000]
    latency = [1380, 890, 1452, 12345, 2000]
    common = {"address": address, "frame": frame, "latency_ns": latency, "comm": 1, "region": 1}
    return rows(5, **{**common, **columns})


def table(of: Rows, **columns: Any) -> PageTable:
    """The page timeline in which every fault of `of` gave its page its first frame."""
    count = len(of)
    filled: dict[str, Any] = {
        "space": of["space"],
        "pid": of["pid"],
        "page": of["address"] & ~np.uint64(PAGE - 1),
        "region": of["region"],
        "first_time_ns": of["time_ns"],
        "first_source": np.full(count, Source.FAULT, np.uint8),
        "first_kind": of["kind"],
        "first_fault": of["number"],
        "first_frame": of["frame"],
        "last_frame": of["frame"],
        "last_source": np.full(count, Source.FAULT, np.uint8),
        "confirmed": of["confirmed"],
        "gains": np.ones(count, np.uint32),
        "losses": np.zeros(count, np.uint32),
        "last_loss": np.zeros(count, np.uint8),
        "last_time_ns": of["time_ns"],
    }
    for name, values in columns.items():
        filled[name] = np.array(values, filled[name].dtype)
    return PageTable(**{name: values.copy() for name, values in filled.items()})


HOSTILE = [
    "plain",
    "",
    "comma, and more",
    'quote " inside',
    "=1+1",
    "+cmd",
    "-x",
    "@sum",
    "'=already",
    "new\nline",
    "cr\rlf",
    "\x1b[31mred\x1b]0;title\x07",
    "back\\slash\\x1b",
    "bytes \udcff\udc80 end",
    "bidi \u202e txt",
    "tab\there",
    "naïve—日本語",
    " leading and trailing ",
    "/usr/lib/x (deleted)",
    "nul-free \x01\x7f\x85",
    *("a;=1+1", " =1", "\u00a0=1", "＝1", "\t=1", "\r=1", "@", "'", "''", '"', '""', ","),
    *('","=1', "#comment", "NULL", "\\N", "ends with \\", '\\"', "'\"", "\u3164", "x\ufe0f"),
]


def name_of(cell: str) -> str:
    """The name a CSV cell stands for, by the rule of docs/csv.md."""

    def one(match: re.Match[str]) -> str:
        if match[1] == "\\":
            return "\\"
        code = int(match[1][1:], 16)
        return chr(code + 0xDC00 if match[1][0] == "x" and code >= 0x80 else code)

    pattern = r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
    return re.sub(pattern, one, cell.removeprefix("'"))
