"""docs/cli.md says what the program does: options, exit codes, examples."""

import re
import shlex

import pytest

from tests.unit.cli_reference import BEGIN, END, PAGE, reference
from tracer.app.cli import command_line
from tracer.common.errors import Exit
from tracer.common.pipes import PIPE_CLOSED

TEXT = PAGE.read_text()


def test_the_options_are_those_of_help() -> None:
    """Write them anew with `python -m tests.unit.cli_reference`."""
    assert TEXT.split(BEGIN)[1].split(END)[0] == reference()


def test_each_option_is_explained_below_the_table_or_in_it() -> None:
    for parameter in command_line.params:
        for name in parameter.opts:
            assert not name.startswith("--") or name in TEXT


def test_the_exit_codes_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+)(?: \+ n)? \| (?:`(\w+)`)?", TEXT, re.M)
    named = {name: int(number) for number, name in rows if name}
    assert named == {code.name: code.value for code in Exit}
    assert {int(number) for number, name in rows if not name} == {128, 130, PIPE_CLOSED}


@pytest.mark.parametrize("line", re.findall(r"^sudo pagefault-trace (.+)$", TEXT, re.M))
def test_the_examples_are_understood(line: str) -> None:
    arguments = shlex.split(re.sub(r"\$\(.*?\)", "1", line.split(" | ")[0]))
    context = command_line.make_context("pagefault-trace", arguments)
    assert context.params["pid"] or context.params["command"] or context.params["check"]
