"""The same call stacks (test_whole_stacks.py) of programs that are linked in other ways.

That is no matter of the probe: once on each kernel.
"""

import pytest

from tests.live import test_whole_stacks as whole
from tracer.probes.choose import Attached

CHECKS = (
    whole.test_every_stack_is_whole,
    whole.test_a_signal_handler_on_an_alternate_stack,
    whole.test_a_stack_that_is_too_deep_is_truncated,
    whole.test_a_coroutine_s_stack_ends_where_it_begins,
    whole.test_what_the_kernel_did_is_part_of_the_stack,
    whole.test_both_rounds_have_the_same_frames,
    whole.test_another_library_at_the_same_addresses_has_its_own_rules,
)


@pytest.mark.parametrize("program", ["golden-static", "golden-fixed"])
def test_a_program_linked_in_another_way(program: str, with_stacks: Attached) -> None:
    """Static, stripped and without a table of its call frame information; at fixed addresses."""
    found = whole.trace_of(program, with_stacks)
    for check in CHECKS:
        check(found)
    for name in whole.ALIKE:
        whole.test_callers_with_frames_alike_are_distinguished(found, name)
