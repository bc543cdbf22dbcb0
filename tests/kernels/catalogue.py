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
    """A test that this kernel cannot run: `test` as shell pattern, `missing` the feature."""

    kernel: str
    probe: str  # "*" for any
    test: str  # "module.py::name", as results.split_test() gives it
    missing: str


EXPECTED_SKIPS: tuple[ExpectedSkip, ...] = ()


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
        if skip.kernel == kernel and skip.probe in ("*", probe) and fnmatchcase(test, skip.test):
            return skip.missing
    return None
