"""What all tests share: the `live` marker, and no silent skips of live tests in CI.

Everything under tests/live, tests/real and tests/soak is marked `live`: real faults on the running
kernel. Such a test skips, with the reason, where it is not root or BPF is
refused. With CI=true a live test that skips is a failure, unless the missing
feature is on the list of tests/kernels/catalogue.py.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kernels.catalogue import HOST, is_expected
from tests.kernels.results import split_test

# The same examples in every run, so that a failure is of the change at hand; others by hand
# (make fuzz). A shared machine says nothing about seconds.
settings.register_profile(
    "fixed",
    deadline=None,
    database=None,
    derandomize=not os.environ.get("FUZZ_SEED"),
    max_examples=int(os.environ.get("FUZZ_EXAMPLES") or 100),
)
settings.load_profile("fixed")

LIVE = {Path(__file__).parent / name for name in ("live", "real", "soak")}

_SYS_BPF = 321  # x86-64
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_RAW_TRACEPOINT = 17


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--probe",
        default="auto",
        metavar="NAME[,NAME]",
        help="probes the live tests attach: fentry, kprobe, perf, or auto for the best one here",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Commands under test are to heed Ctrl-C: a shell's background jobs are born ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "live: needs root and a kernel that lets us load BPF")
    config.addinivalue_line("markers", "guest: a test of the program to run in guests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    live = [item for item in items if LIVE & set(item.path.parents)]
    for item in live:
        item.add_marker("live")
    refusal = why_no_bpf() if live else ""
    if refusal:
        for item in live:
            item.add_marker(pytest.mark.skip(reason=refusal))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("live") and not hasattr(report, "wasxfail"):
        _fail_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself never comes to pytest_runtest_makereport."""
    report = yield
    if LIVE & set(collector.path.parents):
        _fail_skip(report)
    return report


def _fail_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or os.environ.get("CI", "").lower() not in ("true", "1"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    test, probe = split_test(report.nodeid)
    if is_expected(HOST, probe, test, reason.removeprefix("Skipped: ")):
        return
    report.outcome = "failed"
    report.longrepr = f"a live test must not skip in CI: {reason}"


def why_no_bpf() -> str:
    """Why this process may not load a tracing program, in words; empty if it may.

    Tries it, with `r0 = 0; exit` as a raw tracepoint program: rights,
    lockdown, seccomp and the kernel's configuration all have their say.
    """
    if os.geteuid() != 0:
        return "not root"
    program = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95), 16)
    licence = ctypes.create_string_buffer(b"Dual MIT/GPL")
    attr = struct.pack(
        "<IIQQ", _BPF_PROG_TYPE_RAW_TRACEPOINT, 2, ctypes.addressof(program),
        ctypes.addressof(licence),
    ).ljust(128, b"\0")  # fmt: skip
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_BPF, _BPF_PROG_LOAD, attr, len(attr))
    if fd < 0:
        return f"loading a BPF program is refused: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return ""
