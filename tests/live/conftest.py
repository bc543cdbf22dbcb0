"""One compiled and attached probe for all tests: a second here, half a minute in a guest.

The fixtures below it prepare the machine for a test and restore it; see features.py.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.live import features
from tracer.common.resources import bpf_dir
from tracer.probes.choose import Attached, attach

P = ParamSpec("P")
T = TypeVar("T")

# On the host only, as no kernel changes it: the order of our own steps among forks and execs, what
# names code has, what is made of an error, what is kept while we are behind, what several tracers
# share.
_HOST_ONLY = [
    "test_attach.py",
    "test_behind.py",
    "test_failing_files.py",
    "test_hostile_files.py",
    "test_jit.py",
    "test_many_tracers.py",
    "test_stalled_files.py",
    "test_stored_rules.py",
]
collect_ignore = _HOST_ONLY if os.environ.get("PAGEFAULT_GUEST") else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "attached" in metafunc.fixturenames:
        names = metafunc.config.getoption("--probe").split(",")
        metafunc.parametrize("attached", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def attached(request: pytest.FixtureRequest) -> Iterator[Attached]:
    """The probe of --probe, attached, without a target."""
    probe = attach(request.param, bpf_dir())
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def with_stacks(attached: Attached) -> Iterator[Attached]:
    """The same probe once more, compiled to take call stacks."""
    probe = attach(attached.probe.name, bpf_dir(), stacks=True)
    yield probe
    probe.close()


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Counters from zero, no targets left over from the test before."""
    for name in ("attached", "with_stacks"):
        if name in request.fixturenames:
            request.getfixturevalue(name).program.reset()


@pytest.fixture
def machine() -> Iterator[ExitStack]:
    """Where a test enters features.py's contexts; all are left, in turn, when it ends."""
    with features.only_user(), ExitStack() as stack:
        yield stack


def _maker(machine: ExitStack, feature: Callable[P, AbstractContextManager[T]]) -> Callable[P, T]:
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        return machine.enter_context(feature(*args, **kwargs))

    return make


@pytest.fixture
def knob(machine: ExitStack) -> Callable[..., None]:
    """`knob(path, value)`: a file in /sys or /proc/sys."""
    return _maker(machine, features.knob)


@pytest.fixture
def thp(machine: ExitStack) -> Callable[[str], None]:
    """`thp("always")`, `"madvise"`, `"never"`: transparent huge pages."""
    return _maker(machine, features.thp)


@pytest.fixture
def mthp(machine: ExitStack) -> Callable[..., None]:
    """`mthp(64)`: anonymous memory in folios of 64 KiB, and no other size."""
    return _maker(machine, features.mthp)


@pytest.fixture
def hugetlb(machine: ExitStack) -> Callable[..., None]:
    """`hugetlb(4)`: four free huge pages of 2 MiB."""
    return _maker(machine, features.hugetlb)


@pytest.fixture
def ksm(machine: ExitStack) -> None:
    """ksmd at work."""
    machine.enter_context(features.ksm())


@pytest.fixture
def swap(machine: ExitStack) -> Callable[..., Path]:
    """`swap(64)`: 64 MiB of zram; `swap(64, "file")`: on a disk, through the swap cache."""
    return _maker(machine, features.swap)


@pytest.fixture
def memcg(machine: ExitStack) -> Callable[..., features.Group]:
    """`memcg(1 << 24)`: a control group limited to 16 MiB."""
    return _maker(machine, features.memcg)


@pytest.fixture
def numa() -> tuple[int, ...]:
    """The NUMA nodes that have memory; two at least."""
    return features.numa_nodes()
