"""One compiled and attached probe for all tests: a second here, half a minute in a guest."""

from collections.abc import Iterator

import pytest

from tracer.probes.choose import Attached, attach
from tracer.resources import bpf_dir


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


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Counters from zero, no targets left over from the test before."""
    if "attached" in request.fixturenames:
        request.getfixturevalue("attached").program.reset()
