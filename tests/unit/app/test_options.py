"""Words of the command line as values."""

import click
import pytest

from tracer.app.cli import command_line
from tracer.app.options import (
    address_range,
    kinds,
    nanoseconds,
    permissions,
    seconds,
    seconds_or_none,
)
from tracer.model.rows import Kind


def test_ranges_are_written_as_in_maps() -> None:
    assert address_range("7f00-7f80") == (0x7F00, 0x7F80)
    assert address_range("0x7f00-0X7F80") == (0x7F00, 0x7F80)
    assert address_range("0-ffffffffffffffff") == (0, (1 << 64) - 1)


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5-", "-5", "5-5", "6-5", "x-y", "1-2-3", "1 - 2", "-1-2", "1_0-20"]
)
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        address_range(text)


@pytest.mark.parametrize("text", ["1-" + "f" * 17, "٣-٤"])
def test_numbers_no_address_can_be_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="hex"):
        address_range(text)


def test_times_have_units() -> None:
    assert nanoseconds("500ns") == 500
    assert nanoseconds("20us") == nanoseconds("20 µs") == nanoseconds("20") == 20_000
    assert nanoseconds("1.5ms") == 1_500_000
    assert nanoseconds("2S") == 2_000_000_000
    assert nanoseconds("0ns") == 0


@pytest.mark.parametrize("text", ["", "us", "-1us", "1m", "nan", "inf", "1e3", "1.2.3", "9e99s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="try 500ns"):
        nanoseconds(text)


def test_durations_are_seconds_above_0() -> None:
    assert seconds("10") == 10
    assert seconds("0.5") == seconds(".5s") == 0.5
    for text in ("0", "-1", "nan", "inf", "x", "", "1e99", "1m"):
        with pytest.raises(click.BadParameter):
            seconds(text)


def test_there_may_be_no_time_to_drain() -> None:
    assert seconds_or_none("0") == seconds_or_none("0s") == 0
    assert seconds_or_none("2.5") == 2.5
    for text in ("-1", "nan", "inf", "x", "", "1e99"):
        with pytest.raises(click.BadParameter, match="0 or more"):
            seconds_or_none(text)


def test_kinds_are_named() -> None:
    assert kinds("anon, COW") == {Kind.ANON, Kind.COW}
    with pytest.raises(click.BadParameter, match="kinds are .*anon, zero"):
        kinds("anon,")


def test_permissions_are_letters() -> None:
    assert permissions("rwx") == "rwx"
    assert permissions("rw-p") == "rwp"
    for text in ("", "---", "q", "rwxq"):
        with pytest.raises(click.BadParameter, match="rwx"):
            permissions(text)


@pytest.mark.parametrize(
    ("arguments", "stacks", "native", "command"),
    [
        ("-- ./x", False, False, "./x"),
        ("--stacks ./x", True, False, "./x"),
        ("--stacks -- ./x", True, False, "./x"),
        ("--stacks=native ./x --stacks", True, True, "./x --stacks"),
        ("-q --stacks=native --csv f -- ./x", True, True, "./x"),
        ("--stacks ./x --stacks=native", True, False, "./x --stacks=native"),
        ("--stacks --stacks=native -- native", True, True, "native"),
        ("--csv --stacks=native -- ./x", False, False, "./x"),
    ],
)
def test_stacks_are_a_flag_that_may_have_a_value(
    arguments: str, stacks: bool, native: bool, command: str
) -> None:
    context = command_line.make_context("x", arguments.split())
    found = {name: context.params[name] for name in ("stacks", "native", "command")}
    assert found == {"stacks": stacks, "native": native, "command": tuple(command.split())}


@pytest.mark.parametrize("word", ["--stacks=", "--stacks=python", "--stacks=native,", "--native"])
def test_of_other_values_stacks_has_none(word: str) -> None:
    with pytest.raises(click.UsageError):
        command_line.make_context("x", [word, "--", "./x"])
