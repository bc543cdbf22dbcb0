"""Boot stock kernels and run tests/live inside, with every probe: see `--help`."""

import argparse
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

from bench.instructions import measure
from tests import unsteady
from tests.kernels import again, host, matrix
from tests.kernels import compile as compiling
from tests.kernels.boot import ROOT, boot
from tests.kernels.catalogue import (
    BENCH_KERNELS,
    HOST,
    KERNELS,
    PROBES,
    REAL_KERNEL,
    Kernel,
    pick,
)
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
from tests.kernels.stage import REAL_TESTS, StageError, only_run, stage

OUT = ROOT / "build" / "kernels"
PAGE = ROOT / "docs" / "support-matrix.md"
GUESTS_AT_A_TIME = 2
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
    """Host, guests, table, bench, closing line; the exit status."""
    started = time.monotonic()
    cases = _run_host(root, options) if options.host else []
    cases += _run_guests(options, images, root)
    if options.forgive:
        cases = again.settled(cases, images, root, OUT, unsteady.FOLDER)
    print(f"\n{table(cases)}\n")
    explained = notes(cases)
    if explained:
        print(f"{explained}\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{time.monotonic() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time")
    failed = any(case.outcome == "failed" for case in cases)
    releases = {kernel.name: image.release for kernel, image in images.items()}
    if options.host:
        releases[HOST] = host.release()
    failed |= not (failed or _agrees_with_page(options, matrix.render(cases, releases)))
    failed |= options.bench and not _run_bench(images, root, options.probes)
    print(summary(cases))
    return int(failed)


def _run_guests(options: argparse.Namespace, images: dict[Kernel, Image], root: Path) -> list[Case]:
    stop = Event()
    with ThreadPoolExecutor(GUESTS_AT_A_TIME) as pool:
        guests = [
            pool.submit(_run_guest, kernel, image, root, options, stop)
            for kernel, image in images.items()
        ]
        try:
            return [case for guest in guests for case in guest.result()]
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _agrees_with_page(options: argparse.Namespace, found: str) -> bool:
    """Whether docs/support-matrix.md says what a whole run found; outside CI it is made to."""
    if not options.whole:
        return True
    committed = PAGE.read_text() if PAGE.exists() else ""
    changed = matrix.differences(committed, found)
    if not changed:
        return True
    if _in_ci():
        print("docs/support-matrix.md is not what this run found; run make test-kernels:")
        print("\n".join(changed))
        return False
    PAGE.write_text(found)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return True


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; KERNELS and PROBES in the environment are what make passes on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels",
        description="Run tests/live on stock Debian kernels under QEMU (no KVM needed).",
    )
    names = ", ".join([*(kernel.name for kernel in KERNELS), HOST])
    add = parser.add_argument
    add(
        "--kernels",
        default=os.environ.get("KERNELS", ""),
        metavar="NAMES",
        help=f"of {names}, comma-separated (default: all; {HOST} is this machine, and needs root)",
    )
    add(
        "--probes",
        default=os.environ.get("PROBES", ""),
        metavar="NAMES",
        help=f"of {', '.join(PROBES)} (default: all)",
    )
    add("--select", metavar="EXPR", help="only tests that match, as pytest -k")
    add(
        "--full",
        action="store_true",
        default=bool(os.environ.get("FULL")),
        help="every test with every probe; by default all with one probe of each kernel, and "
        "with the others what depends on the probe",
    )
    add(
        "--limit",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="the longest a guest may take (default: %(default)g)",
    )
    add(
        "--bench",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"count what a probe adds to a fault on {' and '.join(BENCH_KERNELS)}, if picked",
    )
    add(
        "--forgive",
        action=argparse.BooleanOptionalAction,
        default=_in_ci(),
        help="run failed tests again, as tests/unsteady.py says (default: in CI)",
    )
    options = parser.parse_args(arguments)
    probes = _words(options.probes) or list(PROBES)
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown:
        parser.error(f"no probe {unknown[0]!r}; there are {', '.join(PROBES)}")
    chosen = _words(options.kernels)
    options.host = HOST in chosen or (not chosen and os.geteuid() == 0)
    try:
        options.kernels = () if chosen == [HOST] else pick(chosen)
    except ValueError as error:
        parser.error(str(error))
    options.probes = tuple(probe for probe in PROBES if probe in probes)
    options.whole = (
        options.host
        and options.kernels == KERNELS
        and options.probes == PROBES
        and not options.select
        and not options.full
    )
    return options


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


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
    """One boot, all probes: Python starts once, and each probe is compiled once, here."""
    out = _output(image.version)
    probes = [probe for probe in options.probes if probe in kernel.probes]
    compiling.clear(out)
    over = Event()
    compiler = Thread(target=compiling.serve, args=(out, root, over))
    compiler.start()
    try:
        ended = boot(
            image,
            _pytest(
                out,
                probes,
                options.select,
                real=kernel.name == REAL_KERNEL,
                whole=None if options.full else kernel.whole,
            ),
            out,
            limit=options.limit,
            root=root,
            append=kernel.append,
            vng=kernel.vng,
            stop=stop,
        )
    finally:
        over.set()
        compiler.join()
    cases = _judged(kernel.name, out, probes)
    failed = any(case.outcome == "failed" for case in cases)
    if ended.status is None or (ended.status != 0 and not failed):
        why = ended.why_it_failed()
        cases.append(Case(kernel.name, "-", GUEST, "failed", "the guest failed", why))
    print(f"{image.release}: {summary(cases)} in {ended.seconds:.0f} s ({out}/)", flush=True)
    return cases


def _run_host(root: Path, options: argparse.Namespace) -> list[Case]:
    """The same tests here, with the probes this kernel allows."""
    started = time.monotonic()
    out = _output(HOST)
    probes = host.allowed_probes(options.probes)
    if not probes:
        return [Case(HOST, "-", GUEST, "failed", "it allows no probe")]
    status = host.run(_pytest(out, probes, options.select), out, root, options.limit)
    cases = _judged(HOST, out, probes)
    if status is None:
        cases.append(Case(HOST, "-", GUEST, "failed", "it took too long"))
    seconds = time.monotonic() - started
    print(f"{HOST} ({host.release()}): {summary(cases)} in {seconds:.0f} s ({out}/)", flush=True)
    return cases


def _output(name: str) -> Path:
    """Where a machine's results go, without those of the last run."""
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.jsonl").unlink(missing_ok=True)
    return out


def _pytest(
    out: Path,
    probes: Sequence[str],
    select: str | None,
    *,
    real: bool = False,
    whole: str | None = None,
) -> list[str]:
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-p", "tests.kernels.report", "--report-lines", str(out / "report.jsonl"),
        "--probe", ",".join(probes), "tests/live", *([REAL_TESTS] if real else []),
    ]  # fmt: skip
    command += ["--whole", whole] if whole is not None and whole in probes else []
    return [*command, "-k", select] if select else command


def _judged(name: str, out: Path, probes: Sequence[str]) -> list[Case]:
    """What the report says; skips that are not expected and probes that ran nothing have failed."""
    report = out / "report.jsonl"
    lines = report.read_text(errors="replace") if report.exists() else ""
    cases = judge(read_report(name, lines), name)
    return cases + idle_probes(name, cases, probes)


def _run_bench(images: dict[Kernel, Image], root: Path, probes: Sequence[str]) -> bool:
    """Print guest instructions added to a fault, per probe. False if that failed or has grown."""
    chosen = [image for kernel, image in images.items() if kernel.name in BENCH_KERNELS]

    def measured(image: Image) -> tuple[str, bool]:
        return measure(image, OUT / f"{image.version}-bench", root, probes)

    with ThreadPoolExecutor(GUESTS_AT_A_TIME) as pool:
        found = list(pool.map(measured, chosen))
    for text, _ in found:
        print(f"{text}\n")
    return all(well for _, well in found)


def _stop(message: str) -> int:
    print(f"tests.kernels: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
