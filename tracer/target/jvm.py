"""Perf maps of traced JVMs, written on request: `jcmd PID Compiler.perfmap` (HotSpot 17).

jcmd is the one in our PATH, and runs as the JVM's own user, never with more rights: HotSpot lets
nobody else attach (os::Posix::matches_effective_uid_and_gid_or_root), and jcmd follows files that
the target may have put there. HotSpot lists what is compiled at that moment; so it is asked again
and again, and when the trace ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.text import decode, printable
from tracer.procfs.credentials import credentials
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import read_maps
from tracer.procfs.rights import in_our_mounts

_CHECK_S = 1.0  # between two searches for JVMs
_MOST_CHECKS = 5  # at a process that has no libjvm.so: it is mapped in the first moments
_MOST_JVMS = 16
_FIRST_S = 1.0  # a JVM is up by then
_SHARE = 20  # jcmd takes that part of the time at most
_MOST_S = 15.0  # jcmd waits 10 s for an answer
_LAST_S = 3.0  # for all, at the end of the trace
_LONGEST = 4096  # bytes of what jcmd says
_MOST_NOTES = 4


@dataclass
class _Jvm:
    """A JVM; times by time.monotonic()."""

    due_s: float
    started_s: float = 0.0
    process: "subprocess.Popen[bytes] | None" = None
    written: int = 0  # perf maps
    why: str = ""  # the last time there was none


def find_jcmd() -> str:
    """The path of jcmd; raises TraceError."""
    found = shutil.which("jcmd")
    if found is None:
        raise TraceError(
            "--jvm-perfmap needs jcmd, which is not in PATH",
            "install a JDK (openjdk-17-jdk-headless), or leave the option out",
            Exit.UNSUPPORTED,
        )
    return os.path.abspath(found)


class JvmPerfMaps(Closing):
    """Asks the JVMs among the traced processes for their perf maps."""

    def __init__(self, jcmd: str) -> None:
        """`jcmd`: its path."""
        self._jcmd = jcmd
        self._jvms: dict[int, _Jvm] = {}
        self._checks: dict[int, int] = {}  # at processes that are none
        self._checked_s = 0.0

    def turn(self, pids: Iterable[int]) -> None:
        """Ask whose turn it is; cheap, for a loop. `pids`: the traced processes."""
        now = time.monotonic()
        if now - self._checked_s > _CHECK_S:
            self._checked_s = now
            self._find(pids, now)
        for pid, jvm in self._jvms.items():
            if jvm.process is not None:
                self._collect(jvm)
            elif now >= jvm.due_s:
                self._ask(pid, jvm)

    def finish(self) -> None:
        """Ask all that live once more, and wait for them for a moment: the trace ends."""
        until = time.monotonic() + _LAST_S
        for pid, jvm in self._jvms.items():
            if jvm.process is None:
                self._ask(pid, jvm)
        while time.monotonic() < until:
            for jvm in self._jvms.values():
                self._collect(jvm)
            if all(jvm.process is None for jvm in self._jvms.values()):
                return
            time.sleep(0.01)
        for jvm in self._jvms.values():
            if jvm.process is not None:
                jvm.why = f"it did not answer within {_LAST_S:.0f} s of the end"
        self.close()

    def notes(self) -> list[str]:
        """Which JVMs wrote none, and why."""
        failed = [(pid, jvm.why) for pid, jvm in self._jvms.items() if not jvm.written and jvm.why]
        notes = [f"JVM {pid} wrote no perf map: {why}" for pid, why in failed[:_MOST_NOTES]]
        if len(failed) > _MOST_NOTES:
            notes.append(f"nor did {len(failed) - _MOST_NOTES} more JVMs")
        if not self._jvms:
            notes.append("--jvm-perfmap: no JVM was seen among the traced processes")
        return notes

    def close(self) -> None:
        """End what still runs."""
        for jvm in self._jvms.values():
            process, jvm.process = jvm.process, None
            if process is not None:
                _kill(process)

    def _find(self, pids: Iterable[int], now: float) -> None:
        for pid in pids:
            checks = self._checks.get(pid, 0)
            if pid in self._jvms or checks >= _MOST_CHECKS or len(self._jvms) >= _MOST_JVMS:
                continue
            self._checks[pid] = checks + 1
            if _is_jvm(pid):
                self._jvms[pid] = _Jvm(now + _FIRST_S)

    def _ask(self, pid: int, jvm: _Jvm) -> None:
        jvm.started_s = time.monotonic()
        jvm.due_s = jvm.started_s + _FIRST_S
        try:
            theirs = credentials(pid)
        except ProcessGone:
            jvm.due_s = float("inf")
            return
        if not _is_jvm(pid):  # it has called exec, or another process has its number
            jvm.due_s = float("inf")
            return
        if theirs.uid == 0 and not in_our_mounts(pid):
            jvm.why = "it runs as root in a container: jcmd would follow its files as root here"
            return
        # To attach, jcmd sends SIGQUIT, of which a process dies that does not handle it (yet).
        if not theirs.catches(signal.SIGQUIT):
            jvm.why = "it handles no SIGQUIT (-Xrs, or it is just starting)"
            return
        root = os.geteuid() == 0  # who else may attach is that user
        try:
            jvm.process = subprocess.Popen(
                [self._jcmd, str(pid), "Compiler.perfmap"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                user=theirs.uid if root else None,
                group=theirs.gid if root else None,
                extra_groups=theirs.groups if root else None,
            )
        except OSError as error:
            jvm.why = f"jcmd could not be started: {error.strerror}"

    def _collect(self, jvm: _Jvm) -> None:
        """See whether jcmd has ended, and how."""
        process = jvm.process
        if process is None:
            return
        now = time.monotonic()
        status = process.poll()
        if status is None and now - jvm.started_s < _MOST_S:
            return
        jvm.process = None
        jvm.due_s = now + max(_FIRST_S, _SHARE * (now - jvm.started_s))
        if status is None:
            jvm.why = f"it did not answer within {_MOST_S:.0f} s"
            _kill(process)
            return
        assert process.stdout is not None
        with process.stdout as output:
            os.set_blocking(output.fileno(), False)
            text = output.read(_LONGEST) or b""
        if status == 0:
            jvm.written += 1
        else:
            jvm.why = _reason(text, status)


def _is_jvm(pid: int) -> bool:
    with contextlib.suppress(OSError, TraceError):
        return any(os.path.basename(each.path) == "libjvm.so" for each in read_maps(pid))
    return False


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _reason(text: bytes, status: int) -> str:
    """Why jcmd failed, in words."""
    if b"Unknown diagnostic command" in text:
        return "it is too old: Compiler.perfmap came with Java 17"
    if b"No such process" in text:
        return "it has ended"
    lines = [line for line in decode(text).splitlines() if line.strip() and line[:1].isalpha()]
    said = f": {printable(lines[0][:200])}" if lines else ""
    return f"jcmd ended with status {status}{said}"
