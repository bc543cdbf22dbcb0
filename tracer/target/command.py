"""Checks of an existing target process, and the start of a command as the target.

A command is forked first and waits, already as the user it will run as, for
`Command.start`: the hooks are attached in between. It keeps our stdin, terminal
and process group, so that Ctrl-C reaches it as usual. At its exec its memory is
pinned (tracer.target.mm_pin) for a last snapshot after its exit; ptrace stops it
only for that moment, so that the program runs with nothing attached.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NoReturn, cast

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.files.identity import Identity
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.target.mm_pin import MmPin, PinHelper, PinUnavailable

# include/uapi/linux/ptrace.h
_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_LISTEN = 0x4208
_PTRACE_O_TRACEEXEC = 0x10
_PTRACE_EVENT_EXEC = 4
_PTRACE_EVENT_STOP = 128
_STOP_SIGNALS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}

NOT_ASKED_FOR = "not asked for"  # a Command.pin_reason
_SIGNALS_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def validate_pid(pid: int) -> None:
    """Raise TraceError (Exit.NO_TARGET) unless `pid` is a process that can be traced."""
    try:
        if stat.is_kernel_thread(pid):
            name = printable(stat.comm(pid))
            raise _no_target(f"process {pid} ({name}) is a kernel thread: it has no memory")
        leader = stat.thread_group(pid)
        if leader != pid:
            raise _no_target(
                f"{pid} is a thread of process {leader}",
                f"trace the process with --pid {leader}; its threads are all traced",
            )
        if stat.state(pid) in "ZX" and not _has_living_thread(pid):
            raise _no_target(f"process {pid} is a zombie: its parent has not waited for it")
    except ProcessGone:
        raise _no_target(f"no such process: {pid}") from None


def _has_living_thread(pid: int) -> bool:
    """Whether the process runs on after its first thread has ended."""
    try:
        stat.living_thread(pid)
    except ProcessGone:
        return False
    return True


def _no_target(message: str, hint: str = "`ps -e` lists the processes") -> TraceError:
    return TraceError(message, hint, Exit.NO_TARGET)


def resolve_command(name: str, env: Mapping[str, str], fallback: Iterable[str] = ()) -> str:
    """The path of command `name`: itself if it has a slash, else the first match in PATH.

    `fallback` directories come after PATH: ours, since sudo's secure_path has no
    virtual environment. Raises TraceError: Exit.NOT_FOUND, Exit.NOT_EXECUTABLE.
    """
    shown = printable(name)
    if "/" in name:
        candidates = [name]
    elif name:
        path = env.get("PATH", os.defpath)
        directories = [directory or "." for directory in path.split(os.pathsep)]
        candidates = [os.path.join(d, name) for d in [*directories, *fallback]]
    else:
        candidates = []
    found = [path for path in candidates if os.path.exists(path)]
    for path in found:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    if not found:
        hint = "check the spelling, or give its full path (sudo has a PATH of its own)"
        raise TraceError(f"{shown}: command not found", hint, Exit.NOT_FOUND)
    if os.path.isdir(found[0]):
        raise TraceError(f"{shown}: is a directory", "name a program in it", Exit.NOT_EXECUTABLE)
    hint = f"chmod +x it, or name its interpreter before it: sh {shown}"
    raise TraceError(f"{shown}: not executable", hint, Exit.NOT_EXECUTABLE)


def own_directories() -> list[str]:
    """The directories of the programs installed beside this one."""
    started_as = Path(sys.argv[0])
    beside = [str(started_as.resolve().parent)] if started_as.is_file() else []
    return [*beside, os.path.join(sys.prefix, "bin")]


class _Stage(IntEnum):
    """The step that the waiting child reports, with an errno."""

    READY = 0
    USER = 1  # could not become the user
    ACCESS = 2  # the user may not execute the program
    EXEC = 3


class Command(Closing):
    """A command that waits for `start`; from then on an ordinary child process.

    Create it early, before other threads and before code that opens descriptors that are not
    close-on-exec: those open now and inheritable are the command's, too, as with env(1).
    ptrace is used only in `start`, from the thread that calls it.
    Its memory is pinned from `start` to `release_pin` or `close`: release soon after it ends.
    Raises TraceError when the program does not exist or cannot be run by that user.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        identity: Identity | None = None,
        *,
        pin: bool = True,
        terminal: int | None = None,
    ) -> None:
        """`terminal`: descriptor of one that replaces ours as its stdin, stdout and stderr."""
        self.argv = list(argv)
        self.identity = identity
        self.pin: MmPin | None = None
        self.pin_reason = "not started" if pin else NOT_ASKED_FOR
        self._helper: PinHelper | None = None
        self._status: int | None = None  # once reaped
        self._started = False
        path = resolve_command(argv[0], env, own_directories())
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, exit statuses are lost
        if pin:
            self._prepare_helper()
        theirs = identity.environment(env) if identity else dict(env)
        try:
            self.pid, self._go, self._report = _spawn(path, self.argv, theirs, identity, terminal)
        except OSError as error:
            self._drop_helper()
            raise TraceError(f"cannot start a process: {error.strerror}") from error
        self.pidfd = os.pidfd_open(self.pid)
        self._expect_ready()

    def start(self, at_exec: Callable[[], None] = lambda: None) -> None:
        """Start the command; returns after its exec. Raises TraceError if that fails.

        `at_exec` is called while it is stopped before its first instruction, if ptrace
        is permitted (as `pin` needs), and not otherwise.
        """
        self._started = True
        traced = self._helper is not None and self._seize()
        with contextlib.suppress(BrokenPipeError):  # killed while it waited
            os.write(self._go, b"!")
        os.close(self._go)
        self._go = -1
        if traced:
            self._pin_at_exec(at_exec)
        failure = os.read(self._report, 8)  # end of file: closed by the exec
        os.close(self._report)
        self._report = -1
        if failure:
            self.close()
            self._fail(failure)
        if self._status is not None:
            self.pin_reason = "it ended before its exec"
            self._drop_helper()
        elif self.pin_reason != NOT_ASKED_FOR:
            if self.pin is None:
                self._pin_mm()  # ptrace was refused: late, and perhaps too late
            if self.pin is not None:
                self._prepare_helper()  # for a later exec, when there is no time to start one

    def repin(self) -> None:
        """Pin again after a later exec: `pin` is of the new mm, or None (see `pin_reason`)."""
        if self.pin_reason == NOT_ASKED_FOR:
            return
        if self.poll() is not None:
            self.release_pin()
            self.pin_reason = "it had ended by the time its last exec was noticed"
            return
        old, self.pin = self.pin, None
        if self._helper is None:
            self._prepare_helper()
        self._pin_mm()
        self._prepare_helper()
        if old is not None:
            old.close()

    def release_pin(self) -> None:
        """Release the pin; the kernel frees the memory if the command has ended. Idempotent."""
        if self.pin is not None:
            self.pin.close()
            self.pin = None
            self.pin_reason = "released"

    def poll(self) -> int | None:
        """The exit status as in a shell (128 + signal when killed); None: still running.

        The process is left a zombie, so that its pid is not reused and its /proc stays until
        `close`.
        """
        if self._status is not None:
            return self._status
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, self.pid, flags)
        if result is None:
            return None
        killed = result.si_code != os.CLD_EXITED
        return 128 + result.si_status if killed else result.si_status

    exit_status = property(poll)

    @property
    def started(self) -> bool:
        """Whether `start` has started it: from then on it runs on if the trace fails."""
        return self._started

    def wait(self, seconds: float | None = None) -> int | None:
        """`poll` once it has ended, or after `seconds`. `pidfd` is readable once it has ended."""
        if self._status is None:
            waiter = select.poll()
            waiter.register(self.pidfd, select.POLLIN)
            waiter.poll(None if seconds is None else seconds * 1000)
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing if it has ended."""
        if self._status is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Release everything: a command not yet started never runs; a running one runs on.

        Idempotent. One that has ended is reaped; `poll` still returns its status.
        """
        self.release_pin()
        self._drop_helper()
        if not self._started:  # killed first: the pipe's end would let it end by itself
            self.send_signal(signal.SIGKILL)
            self.wait()
        for fd in (self._go, self._report):
            if fd >= 0:
                os.close(fd)
        self._go = self._report = -1
        if self._status is not None:
            return
        status = self.poll()
        if status is not None:
            self._status = status
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)

    def _prepare_helper(self) -> None:
        try:
            self._helper = PinHelper()
        except PinUnavailable as error:
            if self.pin is None:
                self.pin_reason = str(error)

    def _drop_helper(self) -> None:
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def _pin_mm(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return  # pin_reason says why
        try:
            self.pin = MmPin(self.pid, helper)
            self.pin_reason = ""
        except PinUnavailable as error:
            self.pin_reason = str(error)

    def _expect_ready(self) -> None:
        report = os.read(self._report, 8)
        if report == struct.pack("ii", _Stage.READY, 0):
            return
        self.close()
        self._fail(report)

    def _fail(self, report: bytes) -> NoReturn:
        """Raise the error that the child reported; `report` is empty without a report."""
        stage, number = struct.unpack("ii", report) if report else (_Stage.EXEC, 0)
        name = printable(self.argv[0])
        why = os.strerror(number) if number else "the process ended before its exec"
        if stage == _Stage.USER and self.identity:
            raise TraceError(f"cannot become user {printable(self.identity.name)}: {why}")
        if stage == _Stage.ACCESS and self.identity:
            user = printable(self.identity.name)
            hint = "use --user root to run it as root"
            raise TraceError(f"{name}: {why} for user {user}", hint, Exit.NOT_EXECUTABLE)
        if number == errno.ENOENT:
            hint = "check its #! line"
            raise TraceError(f"{name}: its interpreter was not found", hint, Exit.NOT_FOUND)
        if number == errno.ENOEXEC:
            hint = f"if it is a script, give it a #! line or name its interpreter: sh {name}"
            raise TraceError(f"{name}: not a program ({why})", hint, Exit.NOT_EXECUTABLE)
        raise TraceError(f"{name}: {why}", "", Exit.NOT_EXECUTABLE)

    def _seize(self) -> bool:
        number = _ptrace(_PTRACE_SEIZE, self.pid, _PTRACE_O_TRACEEXEC)
        if number:
            self.pin_reason = f"ptrace was refused ({os.strerror(number)})"
        return number == 0

    def _pin_at_exec(self, at_exec: Callable[[], None]) -> None:
        """Wait for the exec stop, pin there, detach; signals meanwhile are delivered."""
        while True:
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):  # the report says why, or a signal ended it
                self._status = _shell_status(status)
                os.close(self.pidfd)
                return
            event, number = status >> 16, os.WSTOPSIG(status)
            if event == _PTRACE_EVENT_EXEC:
                try:
                    self._pin_mm()
                    at_exec()
                finally:
                    _ptrace(_PTRACE_DETACH, self.pid, 0)
                return
            if event != _PTRACE_EVENT_STOP:
                _ptrace(_PTRACE_CONT, self.pid, number)
            elif number in _STOP_SIGNALS:
                _ptrace(_PTRACE_LISTEN, self.pid, 0)
            else:
                _ptrace(_PTRACE_CONT, self.pid, 0)


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _ptrace(request: int, pid: int, data: int) -> int:
    """0, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return ctypes.get_errno() if libc.ptrace(request, pid, None, data) < 0 else 0


def _spawn(
    path: str,
    argv: list[str],
    env: dict[str, str],
    identity: Identity | None,
    terminal: int | None = None,
) -> tuple[int, int, int]:
    """Fork the waiting child; returns its pid, the pipe it waits on, the pipe it reports on."""
    theirs_go, go = os.pipe()
    report, theirs_report = os.pipe()
    keep = [*_inheritable(), theirs_go, theirs_report]
    # No handler of ours may run in the child.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(path, argv, env, identity, theirs_go, theirs_report, keep, terminal)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(theirs_go)
        os.close(theirs_report)
    return pid, go, report


def _child(
    path: str,
    argv: list[str],
    env: dict[str, str],
    identity: Identity | None,
    go: int,
    report: int,
    keep: list[int],
    terminal: int | None,
) -> NoReturn:
    stage = _Stage.USER
    try:
        for fd in (0, 1, 2) if terminal is not None else ():
            if os.isatty(fd):
                os.dup2(cast(int, terminal), fd)
        _close_all_but(keep)
        _restore_signals()
        if identity:
            identity.become()
        stage = _Stage.ACCESS
        if not os.access(path, os.X_OK):
            raise PermissionError(errno.EACCES, "")
        os.write(report, struct.pack("ii", _Stage.READY, 0))
        stage = _Stage.EXEC
        if os.read(go, 1):  # end of file: the tracer is gone
            os.execve(path, argv, env)
    except OSError as error:
        os.write(report, struct.pack("ii", stage, error.errno or errno.EIO))
    finally:
        os._exit(Exit.TRACER_FAILED)


def _inheritable() -> list[int]:
    """Descriptors that exec would leave open; a shell's <(…) is one."""
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _close_all_but(keep: list[int]) -> None:
    start = 3
    for fd in sorted(fd for fd in keep if fd >= 3):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 << 20)


def _restore_signals() -> None:
    """Undo Python's changes to signals before exec: those that nohup(1) ignores stay ignored."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) or number in _SIGNALS_PYTHON_IGNORES:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
