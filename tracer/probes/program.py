"""bpf/pagefault.c loaded in the kernel: its programs, their attachments, and the shared maps.

One `Program` is one compiled probe (compilation.py); several traces may follow
one another on it (`reset` between them).
"""

import ctypes
import mmap
import os
import secrets
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tracer.common.errors import Exit, TraceError
from tracer.common.shortage import shortage_of
from tracer.kernel.perf_events import CpuEvents
from tracer.probes import bpf, subprogram
from tracer.probes.answers import KernelTotals, Slot, Walk, Watch, Watched
from tracer.probes.at_once import call_at_once
from tracer.probes.compiled import Answer, Function, MapSpec
from tracer.probes.unwind_maps import COPIES, COPIES_BYTES, UnwindMaps
from tracer.procfs.system import possible_cpus
from tracer.wire.records import Layout, load_layout
from tracer.wire.ring import KernelRing, MappedRing, Ring
from tracer.wire.shared import (
    COUNTER_NAMES,
    STATE_AROUND,
    STATE_ATTEMPT,
    STATE_BESIDE,
    STATE_FILTER,
    TARGET_ACTIVE,
    TARGET_CHILDREN,
    TARGET_WAITS,
    WATCHED_BEGUN,
    WATCHED_ENDED,
    pack,
    unpack,
)

RING_BYTES = 64 << 20

_NR_GETPPID, _NR_MEMBARRIER = 110, 324  # x86-64
_MEMBARRIER_CMD_GLOBAL = 1  # include/uapi/linux/membarrier.h
_FIRST = bytes(4)  # the key of an array's only element

# Where handlers can be preempted (is_handled, hooks_lifecycle.bpf.h), the lifecycle handlers are
# attached so many times: an event one misses, running on that CPU already, is seen by another.
_TRACEPOINT, _LIFE = "raw_tracepoint__", "raw_tracepoint__sched_process_"
_HANDLED, _COPIES = "handled", 3
_STEADY = 10  # tries to read a consistent set of counters

_RECORDS, _POSITIONS = "records", "positions"  # maps: the ring (tracer/wire/ring.py)

# By the first part of a function's name in the BPF sources: program type and attach type.
_TYPES = {
    "raw_tracepoint": (bpf.RAW_TRACEPOINT, 0),  # attached by `Program`, to the one it is named by
    "hook": (bpf.RAW_TRACEPOINT, 0),  # attached on demand
    "fentry": (bpf.TRACING, bpf.FENTRY),
    "fexit": (bpf.TRACING, bpf.FEXIT),
    "kprobe": (bpf.KPROBE, 0),
    "kretprobe": (bpf.KPROBE, 0),
    "perf_event": (bpf.PERF_EVENT, 0),
}


class Program:
    """bpf/pagefault.c loaded for one probe, with the lifecycle hooks of targets attached.

    `functions` are the programs' descriptors by name. Raises TraceError
    (Exit.NO_PROBE) where the kernel refuses it.
    """

    def __init__(self, compiled: Answer, bpf_dir: Path, ring_bytes: int = RING_BYTES) -> None:
        self.layout: Layout = load_layout(bpf_dir)
        self._structs = self.layout.structs
        self._ring_bytes = ring_bytes
        self.functions: dict[str, int] = {}
        self.hooks_anonymous = False  # do_anonymous_page, too
        self.return_probe = ""  # GROUP/EVENT in tracefs
        self.cpu_events: CpuEvents | None = None  # where the probe has some
        self.unwind: UnwindMaps | None = None  # where stacks are walked by rules
        self._maps: dict[str, bpf.Map] = {}
        self._active: mmap.mmap  # a byte a process: whether its faults are recorded
        self._links: list[int] = []
        self._undo: list[Callable[[], None]] = []
        self._calibrator = -1
        self._btf = 0  # the descriptor of the BTF of programs with functions
        self._cpus = possible_cpus()
        self._direct_map = 0
        self._filters = (0, 0, 0)
        self._large_folios = True
        self._namespace = (0, 0)  # struct pid_namespace * of ours, and its depth
        self._slots: ctypes.Array[ctypes.c_char] | None = None
        self._zero: dict[str, int] = {}
        self._skips_before: dict[str, int] = {}
        try:
            self._load(compiled)
            for name in self.functions:
                kind, _, hooked = _original(name).partition("__")
                if kind == "raw_tracepoint":
                    self.attach_raw_tracepoint(name, hooked)
        except OSError as error:
            self.close()
            if short := shortage_of(error, "to load the probe", buffer=ring_bytes):
                raise short from error
            raise TraceError(_why(error), code=Exit.NO_PROBE) from error

    def _load(self, compiled: Answer) -> None:
        for each in compiled.maps:
            entries = self._entries(each)
            self._maps[each.name] = bpf.create_map(
                each.kind, each.key_size, each.value_size, entries, each.flags, each.name
            )
        if _POSITIONS in self._maps:
            capacity = self._ring_entries(bpf.ARRAY)
            positions = self._value("positions", head=capacity, tail=capacity, mask=capacity - 1)
            self._maps[_POSITIONS].update(_FIRST, positions)
        if COPIES in self._maps:
            self.unwind = UnwindMaps(
                self._maps, self._structs["program"], self._structs["python_runtime"]
            )
        self._active = self._maps["active"].memory()
        self.at_close(self._active.close)
        if any(function.calls for function in compiled.functions):
            self._btf = bpf.load_btf(subprogram.btf())
            self.at_close(partial(os.close, self._btf))
        wanted: list[tuple[str, Function]] = []
        for function in compiled.functions:
            wanted.append((function.name, function))
            if _HANDLED in self._maps and function.name.startswith(_LIFE):
                wanted += [(f"{function.name}#{n}", function) for n in range(2, _COPIES + 1)]
        # In parallel: the verifier is slow on some, and runs on every CPU.
        call_at_once([partial(self._load_function, *each, compiled.btf_ids) for each in wanted])

    def _load_function(self, name: str, function: Function, btf_ids: dict[str, int]) -> None:
        prefix, _, hooked = function.name.partition("__")
        kind, attach_type = _TYPES[prefix]
        btf_id = btf_ids.get(hooked, 0) if kind == bpf.TRACING else 0
        if kind == bpf.TRACING and not btf_id:
            return  # inlined on this kernel: nothing to hook
        code = bpf.patched(function.code, [(at, self._maps[name].fd) for at, name in function.maps])
        infos = subprogram.functions(function.calls) if function.calls else b""
        self.functions[name] = bpf.load_program(
            kind, code, hooked, attach_type, btf_id, (self._btf, infos)
        )

    # -- what it is attached to ----------------------------------------------

    def attach_raw_tracepoint(self, function: str, tracepoint: str) -> None:
        """Run a program at a tracepoint until `close`. Raises OSError."""
        self.keep(bpf.open_raw_tracepoint(self.functions[function], tracepoint))

    def attach_tracing(self, function: str) -> None:
        """Run an fentry or fexit program at the function it was loaded for. Raises OSError."""
        self.keep(bpf.open_raw_tracepoint(self.functions[function]))

    def keep(self, fd: int) -> None:
        """Hold an attachment, which ends with its descriptor, until `close`."""
        self._links.append(fd)

    def at_close(self, undo: Callable[[], None]) -> None:
        """Call `undo` once nothing is attached any more."""
        self._undo.append(undo)

    def refresh(self) -> bool:
        """Attach to CPUs that came online; True if there were any: faults on them were missed."""
        return self.cpu_events is not None and self.cpu_events.refresh()

    def map(self, name: str) -> bpf.Map:
        """One of the maps that the programs share, by name."""
        return self._maps[name]

    def _value(self, name: str, **members: int) -> bytes:
        """A `struct name` with these members, for a map."""
        return pack(self._structs[name], **members)

    def _read(self, name: str) -> dict[str, int]:
        """The only value of the map `name`, a `struct name`."""
        return unpack(self._structs[name], self._maps[name].lookup(_FIRST) or b"")

    def open_ring(self) -> Ring:
        """Open the ring, from where the last reader stopped; one reader at a time."""
        records, size = self._maps[_RECORDS].fd, self.layout.size
        if _POSITIONS not in self._maps:
            return KernelRing(records, self._ring_bytes, size)
        positions = self._maps[_POSITIONS].fd
        return MappedRing(positions, records, self._ring_entries(bpf.ARRAY), size)

    def _entries(self, spec: MapSpec) -> int:
        if spec.name == _RECORDS:
            return self._ring_entries(spec.kind)
        return COPIES_BYTES if spec.name == COPIES else spec.entries

    def _ring_entries(self, kind: int) -> int:
        """The ring's size, a power of two: records in an array, bytes in a kernel ring buffer."""
        if kind != bpf.ARRAY:
            return self._ring_bytes
        return 1 << (self._ring_bytes // self.layout.size).bit_length() - 1

    # -- who is traced ------------------------------------------------------

    def add_target(self, tgid: int, *, children: bool, waits: bool = False) -> None:
        """Trace process `tgid` (in our PID namespace) from now, or from its exec."""
        state = (TARGET_WAITS if waits else TARGET_ACTIVE) | (TARGET_CHILDREN if children else 0)
        self._maps["targets"].update(tgid.to_bytes(4, "little"), self._value("target", state=state))
        if not waits:
            self._active[tgid] = 1

    def expect_command(self, tgid: int) -> None:
        """Set the command's `tgid`: its mm may be pinned (mm_pin.py), from its exec on."""
        self._maps["command"].update(_FIRST, self._value("command", tgid=tgid))

    def command_memory(self) -> int:
        """The command's struct mm_struct * since its last exec; 0 before the first."""
        return self._read("command")["mm"]

    def set_held(self, mm: int) -> None:
        """Set the mm that the tracer's pin holds a reference to; 0: none. It is no other user.

        To be set after the pin begins, and cleared before it ends.
        """
        self._maps["held"].update(_FIRST, mm.to_bytes(8, "little"))

    def expect_userfaults(self, used: bool = True) -> None:
        """Report userfaultfd ioctls of other processes, too: a target may be registered."""
        self._maps["userfaults"].update(_FIRST, used.to_bytes(8, "little"))

    def clear_targets(self) -> None:
        """Stop recording: no process is a target any more."""
        targets = self._maps["targets"]
        for tgid, _ in targets.items():
            self._active[int.from_bytes(tgid, "little")] = 0
        for tgid, _ in targets.drain():  # some may be new
            self._active[int.from_bytes(tgid, "little")] = 0

    def wait_for_handlers(self) -> None:
        """Wait until no program runs that began before this call."""
        # It waits for an RCU grace period; all of them run under RCU.
        ctypes.CDLL(None).syscall(_NR_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL, 0, 0)

    # -- settings and counters ----------------------------------------------

    def set_direct_map(self, base: int) -> None:
        """The direct map's base for the page-table walk; 0 turns the walk off."""
        self._direct_map = base
        self._store_settings()

    def set_filters(self, start: int = 0, end: int = 0, min_latency_ns: int = 0) -> None:
        """Leave out faults outside [start, end) (end 0: none) or quicker than `min_latency_ns`."""
        self._filters = (start, end, min_latency_ns)
        self._store_settings()

    def expect_large_folios(self, expected: bool) -> None:
        """Set whether a fault may map several anonymous pages: then its neighbours are read.

        By default, it may.
        """
        self._large_folios = expected
        self._store_settings()

    def _store_settings(self) -> None:
        start, end, min_latency_ns = self._filters
        namespace, level = self._namespace
        always = STATE_FILTER if any(self._filters) else 0
        settings = self._value(
            "settings",
            direct_map=self._direct_map,
            range_start=start,
            range_end=end,
            min_latency_ns=min_latency_ns,
            namespace=namespace,
            namespace_level=level,
            always=always,
            anonymous=always | (STATE_AROUND | STATE_BESIDE if self._large_folios else 0),
        )
        self._maps["settings"].update(_FIRST, settings)

    def counters(self) -> dict[str, int]:
        """Running totals by name (COUNTER_NAMES) since the last `reset`."""
        table = self._maps["counters"]
        totals = {}
        for index, name in enumerate(COUNTER_NAMES):
            values = table.lookup(index.to_bytes(4, "little"), copies=self._cpus) or b""
            total = sum(struct.unpack(f"<{len(values) // 8}Q", values))
            totals[name] = total - self._zero.get(name, 0)
        return totals

    # -- the kernel's own totals ----------------------------------------------

    def watch(self, what: Watch) -> None:
        """Start or stop noting threads that begin and end in `watched`, emptied at a start."""
        if what == Watch.ON:
            self._maps["watched"].clear()
        self._maps["watch"].update(_FIRST, what.to_bytes(8, "little"))

    def watched(self) -> dict[tuple[int, int], Watched]:
        """The threads that began or ended while it was on, by process and thread id."""
        found = {}
        for key, value in self._maps["watched"].items():
            number = int.from_bytes(value, "little")
            found[_ids(int.from_bytes(key, "little"))] = Watched(
                begun=bool(number & WATCHED_BEGUN),
                ended=bool(number & WATCHED_ENDED),
                base=number & (WATCHED_BEGUN - 1),
            )
        return found

    def totals(self) -> KernelTotals:
        """The kernel's totals since the last `reset_targets`."""
        return KernelTotals(**self._read("totals"))

    def leaving(self) -> dict[int, tuple[tuple[int, int], int]]:
        """Exited threads whose task_struct is not freed yet, and their counts at exit.

        By their struct task_struct *: exec may have given the tid of one to another thread.
        """
        entries = self._maps["leaving"].items()
        left = ((task, unpack(self._structs["leaving"], value)) for task, value in entries)
        return {
            int.from_bytes(task, "little"): (_ids(each["id"]), each["count"]) for task, each in left
        }

    def targets(self) -> list[int]:
        """The processes traced now, without those that wait for their exec."""
        return [
            int.from_bytes(tgid, "little")
            for tgid, value in self._maps["targets"].items()
            if unpack(self._structs["target"], value)["state"] & TARGET_ACTIVE
        ]

    def slots(self) -> list[tuple[int, Slot]]:
        """The slot of each thread that has faulted, with its tid."""
        # The map's keys are pids of the initial PID namespace, not of ours.
        slots = self._maps["slots"]
        if self._slots is None:
            self._slots = ctypes.create_string_buffer(slots.value_size)  # megabytes: kept
        slots.lookup_into(_FIRST, self._slots)
        values = [memoryview(self._slots)]
        values += [memoryview(slot) for _, slot in self._maps["pending"].items()]
        parts = [np.frombuffer(each, self._structs["pending"]) for each in values]
        kept = np.concatenate([part[(part["task"] != 0) & (part["tid"] != 0)] for part in parts])
        open_ = (kept["state"] != 0) & (kept["state"] & STATE_ATTEMPT == 0)
        columns = kept["tid"], kept["first"], kept["seen"], open_, kept["task"]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [(tid, Slot(*rest)) for tid, *rest in rows]

    def reset_targets(self) -> None:
        """Clear targets, pending faults, totals and filters."""
        self.clear_targets()
        slots = self._maps["slots"]
        slots.update(_FIRST, bytes(slots.value_size))
        for name in ("owners", "pending", "leaving"):
            self._maps[name].clear()
        self.watch(Watch.OFF)
        self._maps["totals"].update(_FIRST, self._value("totals"))
        self.expect_userfaults(False)
        self.expect_command(0)
        self.set_held(0)
        self.set_filters()

    def reset(self) -> None:
        """Clear targets, pending faults and counters, for another trace on this program."""
        self.reset_targets()
        if self.unwind is not None:
            self.unwind.reset()
        self._zero = {}
        self._zero = self.counters()
        self._skips_before = {
            name: self.recursion_misses(name)
            for name in self.functions
            if name.startswith(_TRACEPOINT)
        }

    # -- calibration ----------------------------------------------------------

    def start_calibration(self) -> None:
        program = self.functions["hook__calibrate"]
        self._calibrator = bpf.open_raw_tracepoint(program, "sys_enter")

    def stop_calibration(self) -> None:
        os.close(self._calibrator)
        self._calibrator = -1

    def walk_own(self, address: int, direct_map: int, symbol: int = 0) -> Walk | None:
        """Walk our own page tables to `address` with a candidate base; None without an answer."""
        table = self._maps["calibration"]
        nonce = secrets.randbits(63) | 1
        asked = {"address": address, "direct_map": direct_map, "symbol": symbol}
        table.update(_FIRST, self._value("calibration", nonce=nonce, **asked))
        # getppid takes no argument; the program recognises this call by the nonce passed as one.
        ctypes.CDLL(None).syscall(_NR_GETPPID, ctypes.c_uint64(nonce))
        answer = self._read("calibration")
        if answer["nonce"]:
            return None
        namespace = answer["namespace"], answer["namespace_level"]
        if self._namespace != namespace:
            self._namespace = namespace
            self._store_settings()
        return Walk(answer["pgd"], answer["entry"], answer["level"], answer["value"])

    # -- what was skipped -----------------------------------------------------

    def recursion_misses(self, function: str) -> int:
        """How often the kernel skipped a program already running on its CPU (since 5.12)."""
        fd = self.functions[function]
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("recursion_misses:"):
                return int(line.split()[1])
        return 0

    def skipped_tracepoints(self) -> int:
        """Number of skipped calls of tracepoint handlers (lifecycle, system calls) since `reset`.

        They can be preempted on kernels since 6.13, and are then skipped on that CPU.
        """
        return self.skipped_calls() + self.missed_lifecycle_events()

    def skipped_calls(self) -> int:
        """The same for handlers other than the lifecycle ones."""
        return sum(
            self._skips(name)
            for name in self.functions
            if name.startswith(_TRACEPOINT) and not name.startswith(_LIFE)
        )

    def missed_lifecycle_events(self) -> int:
        """Number of lifecycle events, of any process, for which no copy of the handler ran.

        Each event is one call of each copy, run or skipped; the calls that ran are counted, and
        so are the events that at least one ran for.
        """
        if _HANDLED not in self._maps:
            return sum(self._skips(name) for name in self.functions if name.startswith(_LIFE))
        calls = events = 0
        before: dict[str, int] = {}
        for _ in range(_STEADY):  # until no event came between the reads
            counters = self.counters()
            if counters == before:
                break
            before = counters
            events = counters["events"]
            skipped = [self._skips(name) for name in self.functions if name.startswith(_LIFE)]
            calls = counters["handler_calls"] + sum(skipped)
        return max(0, calls // _COPIES - events)

    def _skips(self, function: str) -> int:
        return self.recursion_misses(function) - self._skips_before.get(function, 0)

    def close(self) -> None:
        """Detach and unload everything."""
        if self.unwind is not None:
            self.unwind.close()
        fds = [*self._links, *self.functions.values(), *(each.fd for each in self._maps.values())]
        self._links, self.functions, self._maps = [], {}, {}
        for fd in fds:
            os.close(fd)
        while self._undo:
            self._undo.pop()()


def _ids(number: int) -> tuple[int, int]:
    """(tgid, tid) of an id as the programs store it."""
    return number >> 32, number & 0xFFFF_FFFF


def _original(name: str) -> str:
    """The name of the function that "name#2" is a copy of."""
    return name.partition("#")[0]


def _why(error: OSError) -> str:
    """The kernel's error, with the last line of the verifier's log."""
    said = f"the kernel refuses the programs: {os.strerror(error.errno or 0)}"
    log = getattr(error, "log", "")
    if os.environ.get("PAGEFAULT_DEBUG"):
        return f"{said}\n{log}"
    lines = [line for line in log.strip().splitlines() if not line.startswith("processed ")]
    return f"{said} ({lines[-1].strip()})" if lines else said
