"""Compiling bpf/pagefault.c with bcc, in a process of its own (started by compilation.py).

clang and LLVM, once loaded, keep 200 MiB resident; here that ends with the
process. It attaches nothing: the parent gets instructions and the definitions
of their maps. This is the only module that imports bcc, and it imports nothing
else that is heavy.
"""

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracer.common.cache_files import default_folder
from tracer.common.errors import Exit, TraceError
from tracer.common.shortage import is_short, says_so, short, shortage_of
from tracer.kernel.btf import Btf
from tracer.kernel.machine import page_table_levels, preemptible
from tracer.probes import bpf, cache, subprogram
from tracer.probes.bcc_check import import_bcc, installed_bcc
from tracer.probes.compiled import PIDS, SLOTS, Answer, Function, MapSpec, encode
from tracer.probes.order import PROBES, order
from tracer.probes.source import joined
from tracer.procfs.rights import in_initial_pid_namespace

# -D name: BTF path. All are needed.
_OFFSETS = {
    "O_TASK_MM": "task_struct.mm",
    "O_TASK_PID": "task_struct.pid",
    "O_TASK_TGID": "task_struct.tgid",
    "O_TASK_GROUP_LEADER": "task_struct.group_leader",
    "O_TASK_THREAD_PID": "task_struct.thread_pid",
    "O_TASK_THREAD_INFO": "task_struct.thread_info",
    "O_THREAD_STATUS": "thread_info.status",
    "O_PID_LEVEL": "pid.level",
    "O_PID_NUMBERS": "pid.numbers",
    "O_UPID_NS": "upid.ns",
    "O_TASK_COMM": "task_struct.comm",
    "O_TASK_MIN_FLT": "task_struct.min_flt",
    "O_TASK_MAJ_FLT": "task_struct.maj_flt",
    "O_TASK_START_TIME": "task_struct.start_time",
    "O_TASK_EXEC_ID": "task_struct.self_exec_id",
    "O_TASK_SIGNAL": "task_struct.signal",
    "O_TASK_NO_FAULTS": "task_struct.pagefault_disabled",
    "O_SIGNAL_LIVE": "signal_struct.live",
    "O_MM_PGD": "mm_struct.pgd",
    "O_MM_USERS": "mm_struct.mm_users",
    "O_VMA_START": "vm_area_struct.vm_start",
    "O_VMA_END": "vm_area_struct.vm_end",
    "O_VMA_MM": "vm_area_struct.vm_mm",
    "O_VMA_FLAGS": "vm_area_struct.vm_flags",
    "O_VMA_PGOFF": "vm_area_struct.vm_pgoff",
    "O_VMA_FILE": "vm_area_struct.vm_file",
    "O_FILE_INODE": "file.f_inode",
    "O_FILE_PRIVATE": "file.private_data",
    "O_TASK_FILES": "task_struct.files",
    "O_FILES_TABLE": "files_struct.fdt",
    "O_TABLE_FILES": "fdtable.fd",
    "O_INODE_INO": "inode.i_ino",
    "O_INODE_SUPER": "inode.i_sb",
    "O_SUPER_DEVICE": "super_block.s_dev",
    "O_SUPER_MAGIC": "super_block.s_magic",
}
_OPTIONAL_OFFSETS = {
    "O_MM_OWNER": "mm_struct.owner",  # CONFIG_MEMCG
    "O_UFFD_MM": "userfaultfd_ctx.mm",  # CONFIG_USERFAULTFD
    "O_TASK_THREAD": "task_struct.thread",
    "O_THREAD_SP": "thread_struct.sp",
    "O_FORK_REGS": "fork_frame.regs",
    "O_MM_DEF_FLAGS": "mm_struct.def_flags",
}
_UNWIND_OFFSETS = {
    "O_TASK_STACK": "task_struct.stack",
    "O_MM_START_STACK": "mm_struct.start_stack",
    "O_THREAD_FSBASE": "thread_struct.fsbase",
    "O_MM_EXE_FILE": "mm_struct.exe_file",
    "O_MM_START_BRK": "mm_struct.start_brk",
    "O_MM_BRK": "mm_struct.brk",
    "O_MM_START_CODE": "mm_struct.start_code",
    "O_MM_END_CODE": "mm_struct.end_code",
    "O_MM_MMAP_BASE": "mm_struct.mmap_base",
    "O_INODE_GENERATION": "inode.i_generation",
}
_THREAD_SIZE = 16384  # bytes of a kernel stack (arch/x86/include/asm/page_64_types.h)
# Global functions (subprogram.py), and what bcc compiles their calls to: no helper's number.
_GLOBAL = {
    name: 0x7EAD0002 + number
    for number, name in enumerate(
        (
            *("unwind_user", "mix_words", "mix_stack", "send_copy"),
            *("search_threads", "innermost_frame", "read_code", "walk_frame"),
            *("walk_python", "place_loop", "send_code", "send_python", "send_stack"),
        )
    )
}
_CAST, _WORDS, _VMA = "bpf_rdonly_cast", "pt_regs", "vm_area_struct"
_CAST_CALL = 0x7EAD0001  # no helper's number: what bcc compiles a call of bpf_rdonly_cast to
# Maps whose value the programs use in place, by number (bpf/kernel.h).
_VALUES = dict(
    enumerate(("settings", "slots", "active", "mappings", "positions", "totals", "watch"), 1)
)
_HOOKED = ("handle_mm_fault", "do_anonymous_page")

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
# BPF_LD | BPF_IMM | BPF_DW, and its source register: a map, or its value
_LOAD_MAP, _PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 0x18, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Answer the request in argv[1] (compilation.py) in JSON on standard output."""
    # The terminal's signals are for the parent; this process is killed when the parent ends.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = json.loads(sys.argv[1])
    if os.getppid() != request["parent"]:
        return
    out = os.dup(1)
    os.dup2(2, 1)  # what clang and libbpf print is a reason, on whichever of the two
    try:
        bpf_dir, how = Path(request["bpf_dir"]), {k: request[k] for k in ("stacks", "by_rules")}
        said = encode(answer(bpf_dir, request["probe"], request["skip"], **how))
    except (TraceError, MemoryError, ImportError) as error:
        failed = (
            error if isinstance(error, TraceError) else shortage_of(error, "to compile the probe")
        )
        if failed is None:
            raise
        said = json.dumps({"error": [failed.message, failed.hint, failed.code]})
    with open(out, "w", encoding="utf-8") as stream:
        stream.write(said)
    sys.stderr.flush()
    os._exit(0)  # without LLVM's destructors


@dataclass(frozen=True)
class Build:
    """A build of bpf/pagefault.c for one probe on one kernel, possible wherever bcc is."""

    flags: tuple[str, ...]  # of clang
    cast: int  # the BTF id of the kernel's bpf_rdonly_cast; 0 for none

    def key(self, bpf_dir: Path, about: str) -> str:
        """The key of this build in the cache. `about` identifies the bcc."""
        made = joined(bpf_dir), *map(str, (SLOTS, PIDS, _VALUES))  # of the sources
        return cache.key_of(bpf_dir, [about, str(self.cast), *self.flags, *made])

    def compile(self, bpf_dir: Path, lap: Callable[[str], None] = lambda _: None) -> Answer:
        """Compile. Raises TraceError (Exit.NO_PROBE, NO_BCC) with clang's relevant line."""
        return _compile(bpf_dir.resolve(), self, lap)  # libbcc fails on relative paths


def builds_for(btf: Btf, *, stacks: bool, by_rules: bool = True) -> dict[str, Build]:
    """The build of each probe on the running kernel. Raises TraceError (Exit.UNSUPPORTED).

    `stacks`: with the code that captures call stacks, walked by unwind rules if `by_rules`, and the
    kernel's BTF has what that needs; else by frame pointers.
    """
    flags, cast = _flags(btf), _cast_function(btf)
    flags += _casts(btf) if cast else []
    flags += ["-DSTACKS"] if stacks else []
    flags += _unwinding(btf) if stacks and by_rules else []
    return {name: Build((f"-D{probe.define}", *flags), cast) for name, probe in PROBES.items()}


def answer(
    bpf_dir: Path,
    wanted: str,
    skip: list[str],
    *,
    stacks: bool = False,
    by_rules: bool = True,
) -> Answer:
    """Compile the best probe of `wanted` ("auto": of all) that is not in `skip`.

    `wanted` "" only looks for bcc. `stacks`, `by_rules` as for `builds_for`. Raises
    TraceError (Exit.NO_BCC, Exit.UNSUPPORTED).
    """
    clock = _Clock()
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir / "compat")
    about = installed_bcc() if wanted else None
    if about is None:
        found = _found(import_bcc())
        if not wanted:
            return found
        about = f"{found.bcc_folder} {found.bcc_version}"
    with Btf() as btf:
        builds = builds_for(btf, stacks=stacks, by_rules=by_rules)
        ids = {name: number for name in _HOOKED if (number := btf.function_id(name))}
    clock.lap("read BTF")
    names, reasons = order(wanted, skip, ids)
    clock.lap("choose the probe")
    for name in names:
        build, folder = builds[name], default_folder()
        key = build.key(bpf_dir, about)
        compiled = cache.load(folder, key)
        clock.lap("check the cache")
        if compiled is None:
            try:
                compiled = build.compile(bpf_dir, clock.lap)
            except TraceError as error:
                if error.code != Exit.NO_PROBE:
                    raise
                reasons.append(f"{name}: {error.message}")
                continue
            cache.store(folder, key, compiled)
        return replace(compiled, probe=name, reasons=reasons, btf_ids=ids, milliseconds=clock.laps)
    return Answer(reasons=reasons)


def _found(bcc: Any) -> Answer:
    return Answer(
        bcc_version=str(getattr(bcc, "__version__", "version unknown")),
        bcc_folder=str(Path(str(bcc.__file__)).parent),
    )


class _Clock:
    """Durations of the steps, in milliseconds of wall time."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round((now - self._since) * 1e3, 1)
        self._since = now


def _flags(btf: Btf) -> list[str]:
    """The -D flags for the running kernel: offsets of structure members, and features."""
    found = btf.offsets([*_OFFSETS.values(), *_OPTIONAL_OFFSETS.values()])
    missing = [path for path in _OFFSETS.values() if path not in found]
    if missing:
        raise TraceError(
            f"this kernel's BTF does not describe {', '.join(missing)}",
            "the kernel is newer than this program supports; please report its version",
            Exit.UNSUPPORTED,
        )
    flags = [
        f"-D{name}={found[path]}"
        for name, path in (_OFFSETS | _OPTIONAL_OFFSETS).items()
        if path in found
    ]
    if not in_initial_pid_namespace():
        flags.append("-DPID_NAMESPACE")
    if preemptible():
        flags.append("-DPREEMPTIBLE_HANDLERS")
    if bpf.supports_atomics():
        flags.append("-DMAPPED_RING")
    return [*flags, f"-DLEVELS={page_table_levels()}"]


def _cast_function(btf: Btf) -> int:
    """The BTF id of bpf_rdonly_cast; 0 where the kernel lacks it or refuses its use."""
    function = btf.function_id(_CAST)
    return function if function and bpf.supports_casts(function, btf.struct_id(_WORDS)) else 0


def _casts(btf: Btf) -> list[str]:
    """The -D flags that let the programs load through addresses (bpf/kernel.h)."""
    types = {"TYPE_WORDS": btf.struct_id(_WORDS), "TYPE_VMA": btf.struct_id(_VMA)}
    return [f"-DCAST_CALL={_CAST_CALL}", *(f"-D{name}={number}" for name, number in types.items())]


def _unwinding(btf: Btf) -> list[str]:
    """The -D flags for walking stacks by unwind rules; [] where BTF does not have what it takes."""
    found = btf.offsets(list(_UNWIND_OFFSETS.values()))
    if any(path not in found for path in _UNWIND_OFFSETS.values()):
        return []
    flags = [f"-D{name}={found[path]}" for name, path in _UNWIND_OFFSETS.items()]
    calls = [f"-DCALL_{name.upper()}={number}" for name, number in _GLOBAL.items()]
    return ["-DUNWIND", *calls, f"-DTHREAD_SIZE={_THREAD_SIZE}", *flags]


def _hide_symbols(bpf_dir: Path) -> None:
    """Keep libbcc from reading 200,000 kernel symbols to find a single one.

    Before each compile it checks whether the kernel has bpf_probe_read_kernel (5.5),
    which takes as long as the compile. In a mount namespace of our own, /proc/kallsyms
    has only that symbol; without such a namespace, libbcc reads all.
    """
    if _libc.unshare(_CLONE_NEWNS):
        return
    if _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0:
        symbols = os.fsencode(bpf_dir / "compat" / "kallsyms")
        _libc.mount(symbols, b"/proc/kallsyms", None, _MS_BIND, None)


def _compile(bpf_dir: Path, build: Build, lap: Callable[[str], None]) -> Answer:
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir / "compat")
    bcc: Any = import_bcc()
    lap("import bcc")
    _hide_symbols(bpf_dir)

    class Unattached(bcc.BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """Do nothing: bcc would load and attach functions by name."""

    cflags = [
        f"-I{bpf_dir}",
        "-I/usr/include",
        "-I/usr/include/x86_64-linux-gnu",
        f"-DSLOTS={SLOTS}",
        f"-DACTIVE_BYTES={PIDS}",
        *(f"-DVALUE_{name.upper()}={number}" for number, name in _VALUES.items()),
        *build.flags,
    ]
    text = joined(bpf_dir)
    with _quiet_stderr() as complaints:
        try:
            module = Unattached(text=text, cflags=cflags)
        except Exception as error:
            if is_short(error) or says_so(complaints()):
                raise short("to compile the probe") from error
            raise TraceError(_why(str(error), complaints()), code=Exit.NO_PROBE) from error
    maps, functions = _parsed(bcc.lib, module.module, build.cast)
    lap("compile")
    return replace(_found(bcc), maps=maps, functions=functions)


def _parsed(lib: Any, module: Any, cast: int) -> tuple[list[MapSpec], list[Function]]:
    """A module's maps and instructions; bcc created the maps and inserted their descriptors.

    `cast` is the BTF id of bpf_rdonly_cast.
    """
    for call, result in (
        ("bpf_num_tables", ctypes.c_size_t),
        ("bpf_table_name", ctypes.c_char_p),
        ("bpf_table_fd_id", ctypes.c_int),
        ("bpf_table_key_size_id", ctypes.c_size_t),
        ("bpf_table_leaf_size_id", ctypes.c_size_t),
    ):
        getattr(lib, call).restype = result
        getattr(lib, call).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    maps, names = [], {}
    for number in range(lib.bpf_num_tables(module)):
        name = lib.bpf_table_name(module, number).decode()
        names[lib.bpf_table_fd_id(module, number)] = name
        maps.append(
            MapSpec(
                name=name,
                kind=lib.bpf_table_type_id(module, number),
                key_size=lib.bpf_table_key_size_id(module, number),
                value_size=lib.bpf_table_leaf_size_id(module, number),
                entries=lib.bpf_table_max_entries_id(module, number),
                flags=lib.bpf_table_flags_id(module, number),
            )
        )
    each_slot = next(spec.value_size for spec in maps if spec.name == "pending")
    # Not created by bcc: it would keep a copy of the value, as large again.
    maps += [
        MapSpec("slots", bpf.ARRAY, 4, SLOTS * each_slot, 1, 0),
        MapSpec("active", bpf.ARRAY, 4, PIDS, 1, bpf.MMAPABLE),
    ]
    functions = []
    for number in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, number)
        size = lib.bpf_function_size(module, name)
        code = ctypes.string_at(lib.bpf_function_start(module, name), size)
        code = bpf.with_kernel_calls(code, _CAST_CALL, cast)
        functions.append(Function(name.decode(), code, list(_uses(code, names))))
    return maps, _linked(functions)


def _linked(functions: list[Function]) -> list[Function]:
    """The programs, each with the global functions that it calls behind it."""
    shared = {_GLOBAL[each.name]: each for each in functions if each.name in _GLOBAL}
    codes = {number: each.code for number, each in shared.items()}
    programs = []
    for each in functions:
        if each.name not in _GLOBAL:
            code, starts = subprogram.linked(each.code, codes)
            maps = list(each.maps)
            for called, start in starts.items():
                maps += [(number + start, name) for number, name in shared[called].maps]
            programs.append(Function(each.name, code, maps, list(starts.values())))
    return programs


def _uses(code: bytes, names: dict[int, str]) -> Iterator[tuple[int, str]]:
    """(instruction number, map) where a map or its value is loaded (struct bpf_insn)."""
    for number, (operation, registers, _, value) in enumerate(struct.iter_unpack("<BBhi", code)):
        if operation == _LOAD_MAP and registers >> 4 == _PSEUDO_MAP_FD:
            yield number, names[value]
        if operation == _LOAD_MAP and registers >> 4 == _PSEUDO_MAP_VALUE:
            yield number, _VALUES[value]


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Callable[[], str]]:
    """Capture descriptor 2, which clang writes to; yields a function that reads the text."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _why(error: str, complaints: str) -> str:
    """The relevant line of bcc's error and output."""
    if os.environ.get("PAGEFAULT_DEBUG"):
        return f"{error}\n{complaints}"
    for line in complaints.splitlines():
        if "error:" in line or "not permitted" in line or "denied" in line.lower():
            return line.strip()
    return error.strip() or "bcc could not compile it"
