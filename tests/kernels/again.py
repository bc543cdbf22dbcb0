"""A failed test of the matrix once more, alone, where it failed: tests/unsteady.py decides."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests import unsteady
from tests.kernels import host
from tests.kernels.boot import boot
from tests.kernels.catalogue import HOST, Kernel
from tests.kernels.fetch import Image
from tests.kernels.results import ANY_PROBE, Case

ONCE_SECONDS = 240  # Python, bcc and a test, under emulation
LIMIT_SECONDS = 100.0 + unsteady.REPEATS * ONCE_SECONDS


def settled(
    cases: Sequence[Case], images: Mapping[Kernel, Image], root: Path, parent: Path, folder: Path
) -> list[Case]:
    """The cases with the unsteady among the failed ones as passed, and said to be so."""
    failed = {_failure(case): case for case in cases if case.outcome == "failed"}

    def again(failure: unsteady.Failure) -> list[str]:
        return _outcomes(failed[failure], images, root, parent)

    verdict = unsteady.settle(list(failed), again, folder)
    if verdict.text:
        print(f"\n=== unsteady\n{verdict.text}", flush=True)
    if not verdict.forgiven:
        return list(cases)
    return [replace(case, outcome="passed") if case.outcome == "failed" else case for case in cases]


def _failure(case: Case) -> unsteady.Failure:
    log = "\n".join(part for part in (case.reason, case.detail) if part)
    where = f"{case.kernel}-{case.probe}" if case.probe != ANY_PROBE else case.kernel
    return unsteady.Failure(where, case.nodeid, log)


def _outcomes(case: Case, images: Mapping[Kernel, Image], root: Path, parent: Path) -> list[str]:
    """What the test's runs came to: processes of their own, in one boot."""
    out = parent / "again"
    out.mkdir(parents=True, exist_ok=True)
    reports = [out / f"{number}.xml" for number in range(1, unsteady.REPEATS + 1)]
    for report in reports:
        report.unlink(missing_ok=True)
    argv = command(case, reports)
    if case.kernel == HOST:
        host.run(argv, out, root, LIMIT_SECONDS)
    else:
        kernel, image = next((k, i) for k, i in images.items() if k.name == case.kernel)
        boot(
            image, argv, out,
            limit=LIMIT_SECONDS, root=root, append=kernel.append, vng=kernel.vng,
        )  # fmt: skip
    return [unsteady.outcome(report) for report in reports]


def command(case: Case, reports: Sequence[Path]) -> list[str]:
    """pytest for this one test, once a report, each time in a new process; stops if one fails."""
    test = [
        "timeout", "--kill-after=10s", f"{ONCE_SECONDS}s",
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        *(("--probe", case.probe) if case.probe != ANY_PROBE else ()), case.nodeid,
    ]  # fmt: skip
    runs = [shlex.join([*test, f"--junitxml={report}"]) for report in reports]
    return ["sh", "-c", " && ".join(runs)]
