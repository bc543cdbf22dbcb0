"""perf_event_open(2) for events that run a BPF program."""

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Mapping

_NR_PERF_EVENT_OPEN = 298  # x86-64
_FLAG_FD_CLOEXEC = 1 << 3
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_FORMAT_TIME_ENABLED = 1 << 0
_COARSE_S = 0.02  # twice the coarsest clock's resolution

SOFTWARE, TRACEPOINT = 1, 2  # enum perf_type_id

# perf_event_attr up to PERF_ATTR_SIZE_VER5 (include/uapi/linux/perf_event.h): type, size, config,
# sample_period, sample_type, read_format, flags, wakeup, breakpoint, config1, config2, …
_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQII")

_libc = ctypes.CDLL(None, use_errno=True)


def open_event(
    program: int, kind: int, config: int, cpu: int, *, function: str = "", period: int = 1
) -> int:
    """Open an event for all tasks on `cpu` that runs `program`; returns the descriptor.

    `function` is a kprobe's. Raises OSError.
    """
    name = ctypes.create_string_buffer(function.encode())
    where = ctypes.addressof(name) if function else 0
    attr = _ATTR.pack(
        *(kind, _ATTR.size, config, period, 0, _FORMAT_TIME_ENABLED, 0, 0, 0, where),
        *(0, 0, 0, 0, 0, 0, 0, 0),
    )
    fd = int(_libc.syscall(_NR_PERF_EVENT_OPEN, attr, -1, cpu, -1, _FLAG_FD_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_absent(error: OSError) -> bool:
    """Whether an event could not be opened because its CPU is offline or absent."""
    return error.errno in (errno.ENODEV, errno.ENXIO)


def first_cpu() -> int:
    """An online CPU. A tracepoint's or kprobe's program runs on all, on whichever it is opened."""
    return min(os.sched_getaffinity(0))


class CpuEvents:
    """Software events that run programs, on every online CPU; updated by `refresh`."""

    def __init__(self, programs: Mapping[int, int]) -> None:
        """`programs`: the program of each event, by the event's config. Raises OSError."""
        self._programs = dict(programs)
        self._fds: dict[int, list[int]] = {}
        try:
            self._attach_missing()
        except OSError:
            self.close()
            raise

    def refresh(self) -> bool:
        """Attach to CPUs that came online since; True if there were any.

        The events of a CPU that goes offline stop permanently, even if it comes back.
        """
        for cpu, fds in list(self._fds.items()):
            if not is_enabled(fds[0]):
                self._close(cpu)
        return self._attach_missing()

    def close(self) -> None:
        """Detach. Idempotent."""
        for cpu in list(self._fds):
            self._close(cpu)

    def _close(self, cpu: int) -> None:
        for fd in self._fds.pop(cpu):
            os.close(fd)

    def _attach_missing(self) -> bool:
        attached = False
        for cpu in range(os.sysconf("SC_NPROCESSORS_CONF")):
            if cpu not in self._fds:
                attached |= self._attach(cpu)
        return attached

    def _attach(self, cpu: int) -> bool:
        fds: list[int] = []
        try:
            for config, program in self._programs.items():
                fds.append(open_event(program, SOFTWARE, config, cpu))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            if is_absent(error):
                return False
            raise
        self._fds[cpu] = fds
        return True


def is_enabled(fd: int) -> bool:
    """Whether an event of one CPU still runs; it stops permanently when the CPU goes offline.

    Determined by its enabled time (PERF_FORMAT_TOTAL_TIME_ENABLED), which grows from one call to
    the next, or with a coarse clock (where the TSC is unusable) a little later.
    """
    before, deadline = _enabled_ns(fd), time.monotonic() + _COARSE_S
    while _enabled_ns(fd) <= before:
        if time.monotonic() > deadline:
            return False
        time.sleep(_COARSE_S / 10)
    return True


def _enabled_ns(fd: int) -> int:
    return struct.unpack_from("<QQ", os.read(fd, 24) + bytes(16))[1]  # type: ignore[no-any-return]
