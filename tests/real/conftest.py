"""Each program is traced once in each way; all tests read these traces."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import cli
from tests.real.programs import BY_NAME
from tests.real.reports import Reporter
from tests.real.witnessed import Ended, Stage, Witnessed

# How a program is traced: whether as the tracer's command, or by attaching, and the options.
HOW: dict[str, tuple[bool, tuple[str, ...]]] = {
    "command": (True, ()),
    "attached": (False, ()),
    "stacks": (True, ("--stacks",)),
    "later": (True, ("--stacks",)),  # with the unwind rules that a run before has stored
    "tiny": (False, ("--buffer", "4096")),  # the smallest there is
}
SHARES = cli.ROOT / "build" / "real" / "shares.json"

# A machine that runs it all needs no selection.
collect_ignore = [] if os.environ.get("PAGEFAULT_GUEST") else ["test_guest.py"]

_shares: list[dict[str, Any]] = []


@pytest.fixture(scope="session")
def stages() -> Iterator[dict[str, tuple[Stage, Ended]]]:
    """By program: where it runs, and how it ends untraced."""
    made: dict[str, tuple[Stage, Ended]] = {}
    yield made
    for stage, _ in made.values():
        shutil.rmtree(stage.folder, ignore_errors=True)


def staged(name: str, stages: dict[str, tuple[Stage, Ended]]) -> tuple[Stage, Ended]:
    program = BY_NAME[name]
    if name not in stages:
        missing = program.missing()
        if missing:
            pytest.skip(f"{missing}: tools/bootstrap --real installs it")
        # Not pytest's own folder, which is root's alone: PostgreSQL runs as another user.
        folder = Path(tempfile.mkdtemp(prefix="real-"))
        folder.chmod(0o755)
        stage = Stage(program, folder)
        stages[name] = stage, stage.plain()
    return stages[name]


def probe_of(request: pytest.FixtureRequest, named: list[str]) -> list[str]:
    """The probe named, or that of the command line."""
    return named or [request.config.getoption("--probe")]


@pytest.fixture(scope="session")
def traced(
    request: pytest.FixtureRequest, stages: dict[str, tuple[Stage, Ended]]
) -> Iterator[Witnessed]:
    """The trace of (program, how), or (program, how, probe) where that is not --probe."""
    name, how, *probe = request.param
    stage, plain = staged(name, stages)
    command, options = HOW[how]
    stage.forget_rules()
    if how == "later":
        stage.command("earlier", plain, "--probe", *probe_of(request, probe), *options)
    trace = (stage.command if command else stage.attached)(
        how, plain, "--probe", *probe_of(request, probe), *options
    )
    if trace.csv.exists() and not os.environ.get("PAGEFAULT_GUEST"):
        _shares.append(trace.shares())
    yield trace
    for file in [*stage.folder.glob(f"{how}*"), *stage.folder.glob("earlier*")]:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


@pytest.fixture(scope="session")
def reporter() -> Iterator[Reporter]:
    with Reporter() as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shares of each kind, source and loss, a program a paragraph."""
    if not _shares:
        return
    SHARES.parent.mkdir(parents=True, exist_ok=True)
    SHARES.write_text(json.dumps(_shares, indent=1) + "\n")
    terminalreporter.section("shares of kinds, sources and losses")
    for of in _shares:
        lost = 100 * of["lost"] / max(1, of["kernel"])
        terminalreporter.line(
            f"{of['program']}, {of['how']}: {of['kernel']:,} faults, {lost:.1f} % lost, "
            f"{of['missed']:,} missed; {of['seconds']} s, untraced {of['seconds_untraced']} s"
        )
        for what in ("kinds", "sources", "losses"):
            terminalreporter.line(f"    {what:8} {_percent(of[what])}")
    terminalreporter.line(f"written to {SHARES.relative_to(cli.ROOT)}")


def _percent(counts: dict[str, int]) -> str:
    whole = max(1, sum(counts.values()))
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * n / whole:.1f} %" for name, n in ranked if n) or "none"
