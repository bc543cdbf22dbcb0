"""Options, mistakes and what is imported for them; no privileges, nothing is traced."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tracer import __version__
from tracer.app.cli import command_line, run
from tracer.app.run import Signals
from tracer.common.errors import Exit, Interrupted, complain

ROOT = Path(__file__).parents[3]


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    """Runs with these arguments, which must fail with this status and one line."""
    assert run(list(arguments)) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pagefault-trace: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "nothing to trace"),
        (["--duration", "5", "--"], "nothing to trace"),
        (["--pid", "0"], "x>=1"),
        (["--pid", "one"], "not a valid whole number"),
        (["--pid"], "requires an argument"),
        (["--range", "5-1", "-p", "1"], "START must be below END"),
        (["--min-latency", "soon", "-p", "1"], "try 500ns"),
        (["--duration", "0", "-p", "1"], "above 0"),
        (["--snapshot-interval", "1", "-p", "1"], "x>=10"),
        (["--probe", "uprobe", "-p", "1"], "'fentry', 'kprobe', 'perf'"),
        (["--kind", "big", "-p", "1"], "not a kind of fault"),
        (["--perms", "z", "-p", "1"], "letters of rwxps"),
        (["--time", "local", "-p", "1"], "'monotonic'"),
        (["--no-such", "-p", "1"], "No such option"),
        (["--csv", "a", "-o", "a", "-p", "1"], "name the same file"),
        (["--csv", "-", "--pages-csv", "-", "-p", "1"], "name the same file"),
        (["--csv", "a", "--pages-csv", "./a", "-p", "1"], "name the same file"),
        (["--csv", "", "-p", "1"], "--csv is empty"),
        (["--pages-csv", "", "-p", "1"], "--pages-csv is empty"),
        (["-o", "", "-p", "1"], "--output is empty"),
        (["--user", "", "-p", "1"], "--user is empty"),
        (["--region", "a", "--region", "", "-p", "1"], "--region is empty"),
        (["--csv", "a", "-o", "a.meta.json", "-p", "1"], "name the same file"),
        (["--csv", "-", "-o", "/dev/stdout", "-p", "1"], "name the same file"),
    ],
)
def test_misuse_is_2_and_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert word in refused(capsys, Exit.USAGE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "pids", "command"),
    [
        ("--pid 1 22 333", (1, 22, 333), ()),
        ("--pid 1 22 --csv 4 -q", (1, 22), ()),
        ("--csv 4 -p 1,22 5", (1, 22, 5), ()),
        ("-qp1 22", (1, 22), ()),
        ("--pid=1,2,3 -p 4", (1, 2, 3, 4), ()),
        ("-p 1 --pid 2", (1, 2), ()),
        ("--csv --pid -p 7", (7,), ()),  # a value, as click has it
        ("--fail-if -p 12 3", (), ("12", "3")),
        ("-- 12 -p 3 4", (), ("12", "-p", "3", "4")),
        ("pgrep -p 3 4", (), ("pgrep", "-p", "3", "4")),
        ("-p 1 true 4", (1,), ("true", "4")),
    ],
)
def test_several_pids(arguments: str, pids: tuple[int, ...], command: tuple[str, ...]) -> None:
    context = command_line.make_context("x", arguments.split(), resilient_parsing=True)
    assert (context.params["pid"], context.params["command"]) == (pids, command)


@pytest.mark.parametrize("pids", ["1,", ",1", "1,,2", "1, 2", "1,two"])
def test_other_lists_of_pids_are_refused(capsys: pytest.CaptureFixture[str], pids: str) -> None:
    assert "not a valid whole number" in refused(capsys, Exit.USAGE, "--pid", pids)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pid", "1", "--", "true"],
        ["--pid", "1", "true"],
        ["--range", "5-1", "--", "true"],
        ["--range", "5-1", "true"],
        ["--", ""],
        ["--no-such", "--", "true"],
    ],
)
def test_with_a_command_misuse_is_125(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    refused(capsys, Exit.TRACER_FAILED, *arguments)


def test_help_has_every_option_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for parameter in command_line.params:
        assert all(name in text for name in parameter.opts if name.startswith("-"))
    assert "sudo pagefault-trace -- multimap" in text
    assert max(map(len, text.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"pagefault-trace {__version__}\n"


def test_the_live_view_is_imported_by_those_who_want_it() -> None:
    """What a trace imports has nothing of it."""
    script = "import sys; import tracer.app.run, tracer.app.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "tracer.session.session" in loaded
    assert not [name for name in loaded if name.startswith("tracer.live")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--live", "--csv", "-", "--pid", "1"), "--live draws on standard output"),
        (("--live", "--pages-csv", "/dev/stdout", "--pid", "1"), "--live draws on standard output"),
        (("--live", "--pid", "1"), "--live needs a terminal"),
    ],
)
def test_the_live_view_needs_a_terminal(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(arguments)) == Exit.USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--help", "--version", "--range=x"])
def test_nothing_heavy_is_imported_for(argument: str) -> None:
    script = (
        "import sys; from tracer.app.cli import run; run(sys.argv[1:]); "
        "sys.exit(bool({'numpy', 'rich', 'bcc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, argument], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0


def _python(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "tracer.app.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_that_nobody_can_read() -> None:
    full = _python('"$@" >/dev/full', "--help")
    assert full.returncode == Exit.OUTPUT
    assert full.stderr == "pagefault-trace: cannot write standard output: No space left on device\n"
    closed = _python('"$@" >&-', "--help")
    assert closed.returncode == Exit.OUTPUT
    assert closed.stderr.startswith("pagefault-trace: standard output is closed")
    assert _python('"$@" 2>&- <&-', "--version").stdout == f"pagefault-trace {__version__}\n"


def test_complaints_are_one_safe_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a\n  b \x1b[2J")
    assert capsys.readouterr().err == "pagefault-trace: a b \\x1b[2J\n"


# -- signals --------------------------------------------------------------------------------


class FakeCommand:
    """A command that keeps what is sent to it."""

    def __init__(self, status: int | None = None) -> None:
        self.sent: list[int] = []
        self.status = status

    def send_signal(self, number: int) -> None:
        self.sent.append(number)

    def poll(self) -> int | None:
        return self.status

    def wait(self) -> int | None:
        os.kill(os.getpid(), signal.SIGINT)  # the user is impatient
        os.kill(os.getpid(), signal.SIGINT)
        return self.status


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_during_set_up_ends_the_program() -> None:
    for number in Signals.NUMBERS:
        with Signals(), pytest.raises(Interrupted) as caught:
            send(number)
        assert caught.value.number == number


@pytest.mark.parametrize(("signals_sent", "opens"), [(1, True), (2, False)])
def test_a_signal_waits_until_the_files_are_open(signals_sent: int, opens: bool) -> None:
    """A second one does not: opening a pipe that nobody reads takes for ever."""
    opened: list[int] = []

    def open_files() -> None:
        with Signals() as signals, signals.held():
            for _ in range(signals_sent):
                send(signal.SIGTERM)
            opened.append(1)

    with pytest.raises(Interrupted):
        open_files()
    assert bool(opened) == opens


def test_attached_the_first_signal_ends_the_trace_and_the_third_the_program() -> None:
    stopped: list[int] = []
    with Signals() as signals:
        signals.stop = lambda: stopped.append(1)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stopped == [1, 1]
        with pytest.raises(Interrupted):
            send(signal.SIGINT)


def test_with_a_command_the_second_ends_the_trace() -> None:
    stopped: list[int] = []
    command = FakeCommand()
    with Signals() as signals:
        signals.command = command  # type: ignore[assignment]
        signals.stop = lambda: stopped.append(1)
        send(signal.SIGINT)
        assert (stopped, command.sent) == ([], [])  # the terminal sent it to the command, too
        send(signal.SIGTERM)
        assert (stopped, command.sent) == ([1], [signal.SIGTERM])
        assert signals.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "ending", "hurried"),
    [
        (False, False, [0, 1]),  # the first ends the trace
        (False, True, [1, 2]),  # --duration had ended it
        (True, False, [0, 1]),
        (True, True, [1, 2]),  # the command has ended, what is left is read
    ],
)
def test_a_signal_while_the_trace_ends_is_the_second(
    command: bool, ending: bool, hurried: list[int]
) -> None:
    for numbers in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)):
        calls: list[int] = []
        found = []
        with Signals() as signals:
            signals.command = FakeCommand() if command else None  # type: ignore[assignment]
            signals.stop = lambda: None
            signals.hurry = partial(calls.append, 1)
            signals.ending = lambda: ending
            for number in numbers:
                send(number)
                found.append(len(calls))
        assert found == hurried


def test_waiting_for_the_command_ends_with_the_second_signal() -> None:
    with Signals() as signals:
        signals.command = FakeCommand()  # type: ignore[assignment]
        signals.stop = lambda: None
        assert signals.wait() == 128 + signal.SIGINT
        signals.command = FakeCommand(7)  # type: ignore[assignment]
        assert signals.wait() == 7


def test_what_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProcessLookupError(3, "No such process"), "No such process (test_cli.py, line"),
        (
            FileNotFoundError(2, "No such file", "/x\x1b[2J"),
            "No such file '/x\\x1b[2J' (test_cli.py",
        ),
        (OSError(28, "No space left"), "cannot write standard output: No space left"),
    ],
)
def test_an_error_nobody_expected_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    said: str,
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("tracer.app.cli._trace", fail)
    monkeypatch.setattr("tracer.app.cli.discard_stdout", lambda: None)
    status = Exit.OUTPUT if "output" in said else Exit.TRACER_FAILED
    assert said in refused(capsys, status, "--pid", "1")
