"""Starts the compiling process (compiler.py) and reads its answer.

It can be started before anything heavy is imported: clang then works while
Python still loads. It gets our own module path, so that both find the same bcc.
"""

import json
import os
import signal
import sys
from pathlib import Path

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.shortage import limits_set, says_so, short
from tracer.common.text import printable
from tracer.probes.compiled import Answer, decode

# Signals that end a process out of memory: from the kernel (or a control group), C++ or LLVM.
_OF_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from tracer.probes.compiler import main; main()"
)


class Compilation(Closing):
    """One compilation under way. `close` ends it in any state.

    `wanted` is a probe's name, "auto", or "" to only look for bcc; `skip` names
    probes that were tried already; `stacks`: capture the call stack of each fault, too, walked
    `by_rules` or by frame pointers.
    """

    def __init__(
        self,
        wanted: str,
        bpf_dir: Path,
        skip: tuple[str, ...] = (),
        *,
        stacks: bool = False,
        by_rules: bool = True,
    ) -> None:
        request = {
            "parent": os.getpid(),
            "bpf_dir": str(bpf_dir),
            "probe": wanted,
            "skip": list(skip),
            "stacks": stacks,
            "by_rules": by_rules,
        }
        home = str(Path(__file__).resolve().parents[2])
        path = [*sys.path, *([] if home in sys.path else [home])]
        # Memory files, not pipes: they need no reader while it runs.
        self._out = os.memfd_create("answer", os.MFD_CLOEXEC)
        self._err = os.memfd_create("complaints", os.MFD_CLOEXEC)
        # -I -S: the path is passed in full; importing `site` may be slow.
        arguments = ["-I", "-S", "-c", _START, json.dumps(request), json.dumps(path)]
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._out, 1),
                (os.POSIX_SPAWN_DUP2, self._err, 2),
            ],
            setsigmask=(),
        )

    def answer(self) -> Answer:
        """Wait for the result. Raises TraceError with its own error, or where it died."""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        try:
            said = json.loads(_content(self._out))
        except ValueError:
            raise _died(status, _content(self._err)) from None
        if "error" in said:
            message, hint, code = said["error"]
            raise TraceError(message, hint, Exit(code))
        return decode(said)

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        for fd in (self._out, self._err):
            if fd >= 0:
                os.close(fd)
        self._out = self._err = -1


def _content(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")


def _died(status: int, complaints: str) -> TraceError:
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    last = (complaints.strip().splitlines() or [""])[-1]
    if says_so(complaints) or (-code in _OF_MEMORY and limits_set()):
        return short(f"to compile the probe (bcc's process {how})")
    return TraceError(
        f"the process that compiles the probe {how}" + (f": {printable(last)}" if last else ""),
        "check for a shortage of memory, or reinstall bcc",
        Exit.TRACER_FAILED,
    )
