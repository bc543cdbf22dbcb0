"""Which stock kernels the live tests run on, and which skips are expected there.

A kernel more is a line more in `KERNELS`. Debian's kernels give
huge pages to everybody; swap areas, hugetlb pages and the like are made by the tests that need
them (tests/live/features.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

PROBES = ("fentry", "kprobe", "perf")
MEMORY = "2G"
TWO_NODES = ("--numa=1G,cpus=0", "--numa=1G,cpus=1")  # of MEMORY and the two processors

# Emulated, `rep movsb` goes byte by byte: without ERMS and FSRM pages are cleared and copied by
# words. A thread of QEMU's for each processor would cost four times as much on a host where two
# guests share two, as they wait for each other in vain; and patching kernel code while the other
# processor runs it, as attaching does, sometimes ends in a panic there (int3 in a static call).
# AVX is wrong in QEMU 7.2: numpy's argsort comes out unsorted with it.
QEMU = "--qemu-opts=-cpu max,-erms,-fsrm,-avx,-avx2,-f16c,-fma,-vaes -accel tcg,thread=single"
# A busy host must not make the kernel distrust the TSC: reading the HPET costs an exit. What
# defends a real machine costs an emulated one a third of its time, and is not what is tested.
QUICK = (
    *("tsc=reliable", "mitigations=off", "nosmap", "randomize_kstack_offset=off"),
    *("apparmor=0", "audit=0", "kfence.sample_interval=0"),
)


@dataclass(frozen=True)
class Kernel:
    """One guest of the matrix.

    `name` is what `--kernels` takes; `suite` the Debian release whose
    `linux-image-amd64` it is. All tests run with the probe `whole`, those of
    BY_PROBE with each of `probes`; with `--full`, all with each.
    """

    name: str
    suite: str
    whole: str
    probes: tuple[str, ...] = PROBES
    append: tuple[str, ...] = QUICK  # kernel command line
    vng: tuple[str, ...] = (*TWO_NODES, QEMU)  # further options of vng


KERNELS = (
    Kernel("5.10", "bullseye", "kprobe"),
    Kernel("6.1", "bookworm", "perf"),
    Kernel("6.12", "trixie", "fentry"),
    Kernel("7", "sid", "fentry"),  # the newest there is
)
# What depends on how a fault is seen, and not on what the kernel does with its page: the modules
# that run with each probe on each kernel.
BY_PROBE = (
    "test_anonymous_hook.py",
    "test_books.py",
    "test_cli_robustness.py",
    "test_faults_live.py",
    "test_kernel_count.py",
    "test_nofault.py",
    "test_ring_live.py",
    "test_ring_overflow.py",
    "test_whole_stacks.py",
)
BENCH_KERNELS = ("6.12", "7")  # where instructions are counted
REAL_KERNEL = "6.12"  # where a few of tests/real's programs run, each with another probe:
REAL = (("git-commit", "fentry"), ("sqlite3", "kprobe"), ("stress-ng-mremap", "perf"))
HOST = "host"  # the running machine, one row more of the table


@dataclass(frozen=True)
class ExpectedSkip:
    """A test that a kernel cannot run, or every test that needs a feature it lacks.

    All are shell patterns; `missing` is the feature, in the words with which the test skips.
    """

    kernel: str  # a name in KERNELS, or HOST
    test: str  # "module.py::name", as results.split_test() gives it
    missing: str
    probe: str = "*"


# Tests that hold the clock against a limit. Under emulation they would time QEMU: report.py
# leaves them out of the guests.
TIMED = (
    "test_ptdump_live.py::test_sparse_terabyte_takes_no_time",
    "test_ptdump_live.py::test_start_is_quick",
)
TIMED_REASON = "times that mean something (this is an emulated machine)"

EXPECTED_SKIPS = (
    *(ExpectedSkip("*", test, TIMED_REASON) for test in TIMED),
    *(ExpectedSkip(kernel, "*", "multi-size huge pages*") for kernel in ("5.10", "6.1")),
    ExpectedSkip("5.10", "test_huge.py::*", "MADV_COLLAPSE"),
    ExpectedSkip("5.10", "*", "MADV_POPULATE_*"),
    *(ExpectedSkip(kernel, "*", "UFFDIO_MOVE") for kernel in ("5.10", "6.1")),
    ExpectedSkip(HOST, "*", "a second NUMA node"),
    ExpectedSkip(HOST, "test_races.py::test_pages_without_struct_page*", "/dev/mem"),
    ExpectedSkip(HOST, "*", "a CPU that nobody else needs"),
    ExpectedSkip(HOST, "*", "a clock that nobody else goes by"),
    ExpectedSkip(HOST, "test_failing_device.py::*", "device-mapper"),
)


def pick(names: Iterable[str]) -> tuple[Kernel, ...]:
    """The guests of these names, in the table's order; all of them for no name.

    HOST is a name, too, and no guest. Raises ValueError for a name that is not in the table.
    """
    wanted = tuple(names)
    known = [*(kernel.name for kernel in KERNELS), HOST]
    for name in wanted:
        if name not in known:
            raise ValueError(f"no kernel {name!r}; there are {', '.join(known)}")
    return tuple(kernel for kernel in KERNELS if not wanted or kernel.name in wanted)


def is_expected(
    kernel: str,
    probe: str,
    test: str,
    reason: str,
    expected: Iterable[ExpectedSkip] = EXPECTED_SKIPS,
) -> bool:
    """Whether a skip of this test with this reason is on the list."""
    words = (kernel, probe, test, reason)
    return any(
        all(map(fnmatchcase, words, (skip.kernel, skip.probe, skip.test, skip.missing)))
        for skip in expected
    )
