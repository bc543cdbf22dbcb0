"""Where each program begins: Ctrl-C ends it without a traceback, also while it is imported.

Only the programs import this: as it is imported, Ctrl-C ends the process.
"""

import signal

_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTIBLE:  # it is ignored in a shell's background job
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib  # noqa: E402 (what takes time comes after)
import os  # noqa: E402
import sys  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

_INTERRUPTED = 128 + signal.SIGINT
_FAILED = 125  # errors.Exit.TRACER_FAILED


def pagefault_trace() -> NoReturn:
    _start("tracer.app.cli", "pagefault-trace")


def pagefault_report() -> NoReturn:
    _start("tracer.reporting.cli", "pagefault-report")


def ptdump() -> NoReturn:
    _start("tracer.ptdump.cli", "ptdump")


def singlemap() -> NoReturn:
    _start("tracer.demos.singlemap", "singlemap")


def multimap() -> NoReturn:
    _start("tracer.demos.multimap", "multimap")


def _start(module: str, program: str) -> NoReturn:
    try:
        main = importlib.import_module(module).main
    except (MemoryError, ImportError, OSError) as error:
        # The full diagnosis (tracer.common.shortage) may find no memory to be imported.
        if not isinstance(error, MemoryError) and "failed to map segment" not in str(error):
            raise
        sys.stderr.write(f"{program}: there is not enough memory to start: see ulimit -v\n")
        sys.exit(_FAILED)
    try:
        if _INTERRUPTIBLE:
            sys.unraisablehook = _unraisable
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    finally:
        if _INTERRUPTIBLE:  # uncaught while Python shuts down
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _unraisable(unraisable: Any) -> None:
    """End at a Ctrl-C that came in a finalizer or a weakref's callback: Python would ignore it."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.__unraisablehook__(unraisable)
