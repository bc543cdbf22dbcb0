"""Every command of pagefault-report on one trace after another: `python -m tests.real.reports`.

Lines on stdin name traces, as "drawn FILE" or "summary FILE"; the answer is what went wrong, if
anything did, and a line "done …". One process for all: the libraries take a second to start.
"""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.live import cli
from tracer.common.errors import Exit
from tracer.reporting.cli import run


def commands(csv: str, stacks: bool, drawn: bool) -> Iterator[tuple[tuple[str, ...], int]]:
    """Arguments, and the status that is right; `html` has the whole plot in it, as SVG."""
    yield ("summary", csv), 0
    if drawn:
        yield ("html", csv, "-o", f"{csv}.html"), 0
    yield ("plot", csv, "--only", "resident", "-o", f"{csv}.png"), 0
    yield ("diff", csv, csv), 0
    yield ("flame", csv, "-o", f"{csv}.svg"), 0 if stacks else Exit.INPUT
    yield ("export", "--perfetto", csv, "-o", f"{csv}.pftrace"), 0
    yield ("export", "--chrome", csv, "-o", f"{csv}.chrome.json"), 0
    yield ("export", "--speedscope", csv, "-o", f"{csv}.speedscope.json"), 0
    for weight in ("bytes", "faults", "nanoseconds"):
        name = f"{csv}.{weight}.folded"
        yield ("export", "--folded", "--weight", weight, csv, "-o", name), 0


def trouble(csv: str, drawn: bool) -> str:
    """What the first command that fails otherwise than docs/report.md says has to say."""
    stacks = os.path.exists(f"{csv}.stacks.csv")
    for arguments, right in commands(csv, stacks, drawn):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = run(arguments)
            except Exception:  # a traceback is what the test is to show
                traceback.print_exc(file=said)
                status = 1
        if status != right:
            return f"pagefault-report {' '.join(arguments)}: status {status}\n{said.getvalue()}"
        if arguments[0] in ("summary", "diff") and not said.getvalue().strip():
            return f"pagefault-report {' '.join(arguments)} said nothing"
    return ""


class Reporter:
    """The process, started when it is first asked, and anew where it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def trouble(self, csv: Path, drawn: bool) -> str:
        """What is wrong with a trace's reports, `html` among them if `drawn`; empty if nothing."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.real.reports"],
                env=cli.environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = f"{'drawn' if drawn else 'summary'} {csv}"
        self._process.stdin.write(f"{asked}\n")
        self._process.stdin.flush()
        said = ""
        for line in self._process.stdout:
            if line == f"done {asked}\n":
                return said
            said += line
        return f"the process of reports ended with {self._process.wait()}:\n{said}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


if __name__ == "__main__":
    for asked in map(str.strip, sys.stdin):
        how, _, name = asked.partition(" ")
        said = trouble(name, drawn=how == "drawn")
        print(said, end="\n" if said and not said.endswith("\n") else "")
        print(f"done {asked}", flush=True)
