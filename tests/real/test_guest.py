"""A few real programs on a stock kernel, each with another probe, in one guest of tests/kernels.

What tests/real checks on this machine, but for perf (slow to start there) and for the reports.
"""

import pytest

from tests.kernels.catalogue import REAL
from tests.real import test_programs as checks
from tests.real.witnessed import Witnessed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    probes = metafunc.config.getoption("--probe").split(",")
    chosen = [(program, "command", probe) for program, probe in REAL if probe in probes]
    ids = [f"{program}-{probe}" for program, _, probe in chosen]
    metafunc.parametrize("traced", chosen, indirect=True, ids=ids)


@pytest.mark.guest
def test_a_real_program(traced: Witnessed) -> None:
    checks.test_the_program_does_not_notice(traced)
    checks.test_the_kernels_count_is_getrusages(traced)
    checks.test_the_books_balance(traced)
    checks.test_rows_are_what_the_books_say(traced)
