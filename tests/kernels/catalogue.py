"""Which stock kernels the live tests run on, and which skips are expected there.

A kernel more is a line more in `KERNELS`; a guest with something special (swap, NUMA nodes,
huge pages for everybody) is a line with `vng` or `append` set.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

PROBES = ("fentry", "kprobe", "perf")


@dataclass(frozen=True)
class Kernel:
    """One guest of the matrix.

    `name` is what `--kernels` takes; `suite` the Debian release whose
    `linux-image-amd64` it is; `default` whether it runs without `--kernels`.
    """

    name: str
    suite: str
    default: bool = False
    probes: tuple[str, ...] = PROBES
    append: tuple[str, ...] = ()  # kernel command line
    vng: tuple[str, ...] = ()  # further options of vng, such as --numa


KERNELS = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    Kernel("6.12", "trixie", default=True),
    Kernel("7", "sid", default=True),  # the newest there is
)


@dataclass(frozen=True)
class ExpectedSkip:
    """A test that a kernel cannot run: all three are shell patterns, `missing` the feature."""

    kernel: str
    probe: str
    test: str  # "module.py::name", as results.split_test() gives it
    missing: str


# Tests that hold the clock against a limit. Under emulation they would time QEMU: report.py
# leaves them out of the guests.
TIMED = (
    "test_ptdump_live.py::test_sparse_terabyte_takes_no_time",
    "test_ptdump_live.py::test_start_is_quick",
)

EXPECTED_SKIPS = (
    *(ExpectedSkip("*", "*", test, "times mean nothing under emulation") for test in TIMED),
)


def pick(names: Iterable[str]) -> tuple[Kernel, ...]:
    """The kernels of these names, in the table's order; the default ones for no name.

    Raises ValueError for a name that is not in the table.
    """
    wanted = tuple(names)
    known = {kernel.name for kernel in KERNELS}
    for name in wanted:
        if name not in known:
            raise ValueError(f"no kernel {name!r}; there are {', '.join(sorted(known))}")
    return tuple(k for k in KERNELS if (k.name in wanted if wanted else k.default))


def missing_feature(
    kernel: str, probe: str, test: str, expected: Iterable[ExpectedSkip] = EXPECTED_SKIPS
) -> str | None:
    """The missing feature that explains this skip, or None if it is not expected."""
    for skip in expected:
        patterns = (skip.kernel, skip.probe, skip.test)
        if all(map(fnmatchcase, (kernel, probe, test), patterns)):
            return skip.missing
    return None
