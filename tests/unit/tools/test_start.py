"""Ctrl-C at any moment of a program's start: it ends, and says nothing of Python's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAMS = {
    "pagefault_trace": ["--pid", "1", "--duration", "1", "--quiet"],
    "pagefault_report": ["summary", "/nowhere.csv"],
    "ptdump": ["1"],
    "singlemap": [],
    "multimap": [],
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("milliseconds", [10, 30, 60, 150, 400])
def test_an_early_interrupt_is_no_traceback(program: str, milliseconds: int) -> None:
    # Before tracer.start is imported an interrupt is Python's, and says so.
    script = f"from tracer.start import {program}; print('here', flush=True); {program}()"
    with subprocess.Popen(
        [sys.executable, "-c", script, *PROGRAMS[program]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said


def test_an_ignored_interrupt_stays_ignored() -> None:
    script = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.kill(os.getpid(), signal.SIGINT); sys.argv = ['ptdump', '--help']; "
        "from tracer.start import ptdump; ptdump()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0


MAIN = """
import os, signal, weakref
class Thing: pass
def main():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.{signal}))
    del thing
    print("went on", flush=True)
    return 0
"""


@pytest.mark.parametrize("signal_", ["SIGINT", "SIGWINCH"])
def test_an_interrupt_in_a_callback_ends_it(tmp_path: Path, signal_: str) -> None:
    """Python prints it as an ignored exception, and goes on."""
    (tmp_path / "program.py").write_text(MAIN.format(signal=signal_))
    script = "from tracer.start import _start; _start('program', 'program')"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    wanted = (-signal.SIGINT, "") if signal_ == "SIGINT" else (0, "went on\n")
    assert (done.returncode, done.stdout, done.stderr) == (*wanted, "")
