"""Boot stock kernels and run tests/live inside, with every probe: see `--help`."""

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from bench.instructions import measure
from tests.kernels.boot import ROOT, boot
from tests.kernels.catalogue import KERNELS, PROBES, Kernel, pick
from tests.kernels.fetch import FetchError, Image, cache_folder, fetch
from tests.kernels.results import (
    GUEST,
    Case,
    idle_probes,
    judge,
    notes,
    read_report,
    summary,
    table,
)
from tests.kernels.stage import StageError, only_run, stage

OUT = ROOT / "build" / "kernels"
GUESTS_AT_A_TIME = 2
BENCH_KERNEL = "6.12"  # where the numbers in docs/ come from
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "busybox": "busybox-static",
    "file": "file",
    "dpkg": "dpkg",
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no guest behind
    missing = _missing_programs()
    if missing:
        return _stop(f"{missing}; tools/bootstrap --kernels installs what is needed")
    try:
        with only_run(OUT), stage(OUT) as root:
            images = {kernel: fetch(kernel, cache_folder()) for kernel in options.kernels}
            return _run(options, images, root)
    except (FetchError, StageError) as error:
        return _stop(str(error))
    except KeyboardInterrupt:
        return _stop("interrupted")


def _run(options: argparse.Namespace, images: dict[Kernel, Image], root: Path) -> int:
    """Guests, table, bench, closing line; the exit status."""
    stop = Event()
    with ThreadPoolExecutor(GUESTS_AT_A_TIME) as pool:
        guests = [
            pool.submit(_run_guest, kernel, image, root, options, stop)
            for kernel, image in images.items()
        ]
        try:
            cases = [case for guest in guests for case in guest.result()]
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    print(f"\n{table(cases)}\n")
    explained = notes(cases)
    if explained:
        print(f"{explained}\n")
    bench_failed = options.bench and not _run_bench(images, root, options.probes)
    print(summary(cases))
    return int(bench_failed or any(case.outcome == "failed" for case in cases))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; KERNELS and PROBES in the environment are what make passes on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels",
        description="Run tests/live on stock Debian kernels under QEMU (no KVM needed).",
    )
    names = ", ".join(kernel.name for kernel in KERNELS)
    usual = ",".join(kernel.name for kernel in pick(()))
    add = parser.add_argument
    add(
        "--kernels",
        default=os.environ.get("KERNELS", ""),
        metavar="NAMES",
        help=f"of {names}, comma-separated (default: {usual})",
    )
    add(
        "--probes",
        default=os.environ.get("PROBES", ""),
        metavar="NAMES",
        help=f"of {', '.join(PROBES)} (default: all)",
    )
    add("--select", metavar="EXPR", help="only tests that match, as pytest -k")
    add(
        "--limit",
        type=float,
        default=1500,
        metavar="SECONDS",
        help="the longest a guest may take (default: %(default)g)",
    )
    add(
        "--bench",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"count what a probe adds to a fault, if {BENCH_KERNEL} is among the kernels",
    )
    options = parser.parse_args(arguments)
    probes = _words(options.probes) or list(PROBES)
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown:
        parser.error(f"no probe {unknown[0]!r}; there are {', '.join(PROBES)}")
    try:
        options.kernels = pick(_words(options.kernels))
    except ValueError as error:
        parser.error(str(error))
    options.probes = tuple(probe for probe in PROBES if probe in probes)
    return options


def _words(text: str) -> list[str]:
    """Names apart by commas or spaces."""
    return re.split(r"[,\s]+", text.strip(", ")) if text.strip(", ") else []


def _missing_programs() -> str:
    """What is not installed, in words; empty if nothing is missing."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [f"{p} ({deb})" for p, deb in NEEDED.items() if not shutil.which(p, path=path)]
    if not Path(sys.executable).with_name("vng").exists():
        missing.append(f"vng (virtme-ng, beside {sys.executable})")
    return f"missing: {', '.join(missing)}" if missing else ""


def _run_guest(
    kernel: Kernel, image: Image, root: Path, options: argparse.Namespace, stop: Event
) -> list[Case]:
    """One boot, all probes: Python starts once, and each probe is compiled once."""
    out = OUT / image.version
    out.mkdir(parents=True, exist_ok=True)
    report = out / "report.jsonl"
    report.unlink(missing_ok=True)
    probes = [probe for probe in options.probes if probe in kernel.probes]
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-p", "tests.kernels.report", "--report-lines", str(report),
        "--probe", ",".join(probes), "tests/live",
    ]  # fmt: skip
    if options.select:
        command += ["-k", options.select]
    ended = boot(
        image,
        command,
        out,
        limit=options.limit,
        root=root,
        append=kernel.append,
        vng=kernel.vng,
        stop=stop,
    )
    lines = report.read_text(errors="replace") if report.exists() else ""
    cases = judge(read_report(image.version, lines), kernel.name)
    failed = any(case.outcome == "failed" for case in cases)
    cases += idle_probes(image.version, cases, probes)
    if ended.status is None or (ended.status != 0 and not failed):
        why = ended.why_it_failed()
        cases.append(Case(image.version, "-", GUEST, "failed", "the guest failed", why))
    print(f"{image.release}: {summary(cases)} in {ended.seconds:.0f} s ({out}/)", flush=True)
    return cases


def _run_bench(images: dict[Kernel, Image], root: Path, probes: Sequence[str]) -> bool:
    """Print guest instructions added to a fault, per probe. False if that failed."""
    for kernel, image in images.items():
        if kernel.name == BENCH_KERNEL:
            text, well = measure(image, OUT / f"{image.version}-bench", root, probes)
            print(f"{text}\n")
            return well
    return True


def _stop(message: str) -> int:
    print(f"tests.kernels: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
