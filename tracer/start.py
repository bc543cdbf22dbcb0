"""Where each program begins: Ctrl-C ends it without a traceback, also while it is imported.

Only the programs import this: as it is imported, Ctrl-C ends the process.
"""

import signal

_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTIBLE:  # it is ignored in a shell's background job
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib  # noqa: E402 (what takes time comes after)
import sys  # noqa: E402
from typing import NoReturn  # noqa: E402

_INTERRUPTED = 128 + signal.SIGINT


def pagefault_trace() -> NoReturn:
    _start("tracer.cli")


def pagefault_report() -> NoReturn:
    _start("tracer.reporting.cli")


def ptdump() -> NoReturn:
    _start("tracer.ptdump")


def singlemap() -> NoReturn:
    _start("tracer.demos.singlemap")


def multimap() -> NoReturn:
    _start("tracer.demos.multimap")


def _start(module: str) -> NoReturn:
    main = importlib.import_module(module).main
    try:
        if _INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    finally:
        if _INTERRUPTIBLE:  # nobody would catch it in Python's own end
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)
