"""Ctrl-C at any moment of a program's start: it ends, and says nothing of Python's."""

import signal
import subprocess
import sys
import time

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
    script = (
        f"import signal; print('here', flush=True); from tracer.start import {program}; {program}()"
    )
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
