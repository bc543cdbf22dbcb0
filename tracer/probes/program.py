"""Compiling bpf/pagefault.c with BCC, and the maps user space shares with it.

One `Program` is one compiled probe; several traces may follow one another on
it (`reset` between them). Headers come from bpf/compat, offsets from BTF,
so neither kernel headers nor a matching kernel package is needed.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.bcc_check import import_bcc
from tracer.errors import Exit, TraceError
from tracer.kernel.btf import Btf
from tracer.records import Layout, load_layout

RING_BYTES = 64 << 20

# -D name: BTF path. All are needed.
_OFFSETS = {
    "O_TASK_MM": "task_struct.mm",
    "O_TASK_PID": "task_struct.pid",
    "O_TASK_TGID": "task_struct.tgid",
    "O_TASK_COMM": "task_struct.comm",
    "O_TASK_MIN_FLT": "task_struct.min_flt",
    "O_TASK_MAJ_FLT": "task_struct.maj_flt",
    "O_TASK_SIGNAL": "task_struct.signal",
    "O_SIGNAL_LIVE": "signal_struct.live",
    "O_MM_PGD": "mm_struct.pgd",
    "O_VMA_START": "vm_area_struct.vm_start",
    "O_VMA_END": "vm_area_struct.vm_end",
    "O_VMA_MM": "vm_area_struct.vm_mm",
    "O_VMA_FLAGS": "vm_area_struct.vm_flags",
    "O_VMA_PGOFF": "vm_area_struct.vm_pgoff",
    "O_VMA_FILE": "vm_area_struct.vm_file",
    "O_FILE_INODE": "file.f_inode",
    "O_INODE_INO": "inode.i_ino",
    "O_INODE_SUPER": "inode.i_sb",
    "O_SUPER_DEVICE": "super_block.s_dev",
    "O_SUPER_MAGIC": "super_block.s_magic",
}
_OPTIONAL_OFFSETS = {"O_MM_OWNER": "mm_struct.owner"}  # CONFIG_MEMCG

COUNTERS = ("lost", "lost_other", "filtered", "crowded", "orphans", "abandoned")


class _Target(ctypes.Structure):
    """struct target"""

    _fields_ = [
        ("leader", ctypes.c_uint64),
        ("state", ctypes.c_uint32),
        ("spare", ctypes.c_uint32),
    ]


class _Settings(ctypes.Structure):
    """struct settings"""

    _fields_ = [
        ("direct_map", ctypes.c_uint64),
        ("range_start", ctypes.c_uint64),
        ("range_end", ctypes.c_uint64),
        ("min_latency_ns", ctypes.c_uint64),
    ]


class _Calibration(ctypes.Structure):
    """struct calibration"""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "thread",
            "address",
            "direct_map",
            "symbol",
            "pgd",
            "entry",
            "level",
            "value",
        )
    ]


TARGET_ACTIVE, TARGET_WAITS, TARGET_CHILDREN = 1, 2, 4


@dataclass
class Walk:
    """The answer to one walk of the tracer's own memory."""

    pgd: int
    entry: int
    level: int
    symbol_value: int


def kernel_flags(levels: int) -> list[str]:
    """The -D flags that tell the program where this kernel keeps its members."""
    with Btf() as btf:
        found = btf.offsets([*_OFFSETS.values(), *_OPTIONAL_OFFSETS.values()])
    missing = [path for path in _OFFSETS.values() if path not in found]
    if missing:
        raise TraceError(
            f"this kernel's BTF does not describe {', '.join(missing)}",
            "it is newer than this program knows; please report its version",
            Exit.UNSUPPORTED,
        )
    flags = [
        f"-D{name}={found[path]}"
        for name, path in (_OFFSETS | _OPTIONAL_OFFSETS).items()
        if path in found
    ]
    return [*flags, f"-DLEVELS={levels}"]


def load_bcc(bpf_dir: Path) -> Any:
    """The distribution's bcc module, told to compile against bpf/compat.

    Raises TraceError (Exit.NO_BCC) where it is missing or another package.
    """
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir / "compat")
    return import_bcc()


class Program:
    """bpf/pagefault.c compiled and loaded for one probe.

    Raises TraceError where the kernel or BCC refuses it.
    """

    def __init__(
        self,
        bcc: Any,
        bpf_dir: Path,
        define: str,
        flags: Iterable[str],
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self.layout: Layout = load_layout(bpf_dir)
        self.ring_bytes = ring_bytes
        cflags = [
            f"-I{bpf_dir}",
            "-I/usr/include",
            "-I/usr/include/x86_64-linux-gnu",
            f"-D{define}",
            f"-DRING_PAGES={ring_bytes // 4096}",
            *flags,
        ]
        with quiet_stderr() as complaints:
            # In two steps: a refused program would keep its maps, the ring's 64 MiB among them.
            self.bpf = bcc.BPF.__new__(bcc.BPF)
            try:
                self.bpf.__init__(src_file=os.fsencode(bpf_dir / "pagefault.c"), cflags=cflags)
            except Exception as error:
                with contextlib.suppress(Exception):  # it may not have come far
                    self.bpf.cleanup()
                raise TraceError(_why(str(error), complaints()), code=Exit.NO_PROBE) from error
        self._settings = _Settings()
        self._zero: dict[str, int] = {}

    @property
    def ring_fd(self) -> int:
        return int(self._table("events").map_fd)

    def _table(self, name: str) -> Any:
        return self.bpf[name.encode()]  # str works, with a DeprecationWarning a look-up

    # -- who is traced ------------------------------------------------------

    def add_target(self, tgid: int, *, children: bool, waits: bool = False) -> None:
        """Trace process `tgid` (as the initial PID namespace has it) from now, or from its exec."""
        state = (TARGET_WAITS if waits else TARGET_ACTIVE) | (TARGET_CHILDREN if children else 0)
        self._table("targets")[ctypes.c_uint32(tgid)] = _Target(0, state, 0)

    def clear_targets(self) -> None:
        """Stop recording: no process is a target any more."""
        self._table("targets").clear()

    # -- settings and counters ----------------------------------------------

    def set_direct_map(self, base: int) -> None:
        """The direct map's base for the page-table walk; 0 turns the walk off."""
        self._settings.direct_map = base
        self._store_settings()

    def set_filters(self, start: int = 0, end: int = 0, min_latency_ns: int = 0) -> None:
        """Leave out faults outside [start, end) (end 0: none) or quicker than `min_latency_ns`."""
        self._settings.range_start, self._settings.range_end = start, end
        self._settings.min_latency_ns = min_latency_ns
        self._store_settings()

    def _store_settings(self) -> None:
        self._table("settings")[ctypes.c_int(0)] = self._settings

    def counters(self) -> dict[str, int]:
        """Running totals by name (COUNTERS) since the last `reset`."""
        table = self._table("counters")
        return {
            name: sum(table[ctypes.c_int(index)]) - self._zero.get(name, 0)
            for index, name in enumerate(COUNTERS)
        }

    def unsent_counts(self) -> dict[int, int]:
        """By thread id: its count at its last fault that was lost or filtered out, if any.

        Together with the records' own counts that is where a thread's interval ends.
        """
        counts = {}
        for tid, place in self._table("pending").items():
            if place.unsent:
                counts[int(tid.value)] = int(place.unsent)
        return counts

    def reset_targets(self) -> None:
        """No process is a target, no fault is pending, nothing is filtered."""
        self.clear_targets()
        self._table("pending").clear()
        self.set_filters()

    def reset(self) -> None:
        """Forget targets, pending faults and counts, for another trace on this program."""
        self.reset_targets()
        self._zero = {}
        self._zero = self.counters()

    # -- calibration ----------------------------------------------------------

    def start_calibration(self) -> None:
        self._calibrator = self.bpf.load_func(b"calibrate", self.bpf.RAW_TRACEPOINT)
        self.bpf.attach_raw_tracepoint(tp=b"sys_enter", fn_name=b"calibrate")

    def stop_calibration(self) -> None:
        self.bpf.detach_raw_tracepoint(tp=b"sys_enter")

    def walk_own(self, address: int, direct_map: int, symbol: int = 0) -> Walk | None:
        """Walk our own page tables to `address` with a candidate base; None if not answered."""
        table = self._table("calibration")
        thread = os.getpid() << 32 | _gettid()
        table[ctypes.c_int(0)] = _Calibration(thread, address, direct_map, symbol)
        os.getppid()  # a system call: the program runs at its entry
        answer = table[ctypes.c_int(0)]
        if answer.thread:
            return None
        return Walk(int(answer.pgd), int(answer.entry), int(answer.level), int(answer.value))

    def recursion_misses(self, fd: int) -> int:
        """How often the kernel skipped a program already running on its CPU (since 5.12)."""
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("recursion_misses:"):
                return int(line.split()[1])
        return 0

    def skipped_tracepoints(self) -> int:
        """How often tracepoint handlers (life cycle, system calls) were skipped.

        Those of system calls can be preempted since 6.13, and then blind their program.
        """
        return sum(
            self.recursion_misses(function.fd)
            for name, function in self.bpf.funcs.items()
            if name.startswith(b"raw_tracepoint__")
        )

    def close(self) -> None:
        """Detach and unload everything."""
        self.bpf.cleanup()


def _gettid() -> int:
    import threading

    return threading.get_native_id()


class quiet_stderr:
    """clang and libbpf write to descriptor 2: kept, to quote the reason and not a page of it."""

    def __enter__(self) -> Any:
        import sys
        import tempfile

        sys.stderr.flush()
        self._file = tempfile.TemporaryFile()
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self._read

    def _read(self) -> str:
        self._file.seek(0)
        return self._file.read().decode("utf-8", "replace")

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)


def _why(error: str, complaints: str) -> str:
    """The line that matters of BCC's error and what it printed."""
    if os.environ.get("PAGEFAULT_DEBUG"):
        return f"{error}\n{complaints}"
    for line in complaints.splitlines():
        if "error:" in line or "not permitted" in line or "denied" in line.lower():
            return line.strip()
    return error.strip() or "BCC could not load it"
