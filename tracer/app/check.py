"""pagefault-trace --check: what this kernel and these privileges allow, found by trying."""

import contextlib
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from rich.console import Console
from rich.text import Text

from tracer import __version__
from tracer.common.errors import Exit, TraceError
from tracer.common.resources import bpf_dir
from tracer.common.text import printable
from tracer.common.units import ASCII, glyphs_for
from tracer.files.output import open_output
from tracer.files.printing import show
from tracer.files.text_file import TextFile
from tracer.kernel.btf import Btf
from tracer.kernel.machine import (
    check_architecture,
    has_symbol,
    page_table_levels,
    preemption,
)
from tracer.kernel.paging import DirectMap
from tracer.kernel.sideband import Sideband
from tracer.probes.choose import attach
from tracer.probes.compilation import Compilation
from tracer.probes.order import PROBES
from tracer.procfs import hugepages, rights
from tracer.procfs.entries import frames_visible, open_pagemap, scan_available
from tracer.target.mm_pin import PinHelper, PinUnavailable

Answer = Literal["yes", "no", "some", ""]

_RING_BYTES = 1 << 20  # nothing is traced
_STYLES: dict[Answer, str] = {
    "yes": "bold #009e73",
    "no": "bold #d55e00",
    "some": "bold #e69f00",
    "": "",
}
_AS_ROOT = "run it with sudo"
_NOT_TRIED = "not tried: needs root"
_NEEDS = {
    "fentry": "needs BTF and CONFIG_FUNCTION_TRACER, and no lockdown or filter against it",
    "kprobe": "needs CONFIG_KPROBES and CONFIG_KPROBE_EVENTS, and tracefs mounted",
    "perf": "needs CONFIG_PERF_EVENTS and CONFIG_BPF_SYSCALL",
}


@dataclass(frozen=True)
class Line:
    """One check: its result, the reason, and what to do about it."""

    name: str
    answer: Answer
    why: str
    advice: str = ""


@dataclass(frozen=True)
class Tried:
    """The result of attaching a probe and, if that worked, of its walk of page tables."""

    refusal: str = ""  # "": it works
    walk: DirectMap | None = None
    anonymous: bool = False  # do_anonymous_page is hooked, too


def check() -> int:
    """Print the table; 0 where some probe works, else Exit.NO_PROBE. Raises TraceError."""
    root = rights.has_capability(rights.CAP_SYS_ADMIN) and rights.in_initial_user_namespace()
    tried = {name: _try(name, root) for name in PROBES}
    groups = [
        ("rights", list(_rights())),
        ("program", [_architecture(), _bcc(), _c_headers(), _kernel_headers(), _btf()]),
        ("hooks", [*_probes(tried), _anonymous(tried), _preemption()]),
        ("frames", [_frames(), _walk(tried), _scan(), _sideband(), _pin()]),
        ("large pages", [_transparent(), _shmem(), _folios(), _hugetlb()]),
    ]
    out = open_output("-")
    stream = TextFile(out, getattr(sys.stdout, "encoding", None) or "utf-8")
    console = Console(file=cast(IO[str], stream), highlight=False)
    width = console.width if stream.isatty() else 0
    arrow = "→" if glyphs_for(stream.encoding) != ASCII else "->"
    show(console, list(render(groups, verdict(tried), width, arrow)))
    out.close()
    return Exit.OK if any(not each.refusal for each in tried.values()) else Exit.NO_PROBE


def render(
    groups: list[tuple[str, list[Line]]], closing: str, width: int, arrow: str = "→"
) -> Iterator[Text]:
    """The table as lines, fitted to `width` cells; 0: as long as they need to be."""
    names = max(len(line.name) for _, lines in groups for line in lines)
    column = 2 + names + 2 + len("some") + 2
    room = width - column if width else 0
    yield Text(f"pagefault-trace {__version__} on Linux {os.uname().release}, {platform.machine()}")
    for title, lines in groups:
        yield Text()
        yield Text(title, "bold")
        for line in lines:
            head = Text(f"  {line.name:{names}}  ")
            head.append(f"{line.answer or '-':4}", _STYLES[line.answer] or None)
            first, *more = _wrapped(line.why, room)
            yield head.append(f"  {first}")
            if line.advice:
                more += _wrapped(f"{arrow} {line.advice}", room)
            for part in more:
                yield Text(" " * column + part)
    yield Text()
    for part in _wrapped(closing, width):
        yield Text(part, "bold")


def _wrapped(text: str, width: int) -> list[str]:
    text = printable(text)
    return (textwrap.wrap(text, max(width, 20)) if width else [text]) or [""]


def verdict(tried: dict[str, Tried]) -> str:
    """Which probe `--probe auto` selects, and why."""
    works = [name for name, each in tried.items() if not each.refusal]
    if not works:
        return "No probe works here: nothing can be traced."
    exact = [name for name in works if not PROBES[name].inexact()]
    name = (exact or works)[0]
    passed = [
        f"{other} {'does not work' if each.refusal else 'would miss faults'}"
        for other, each in tried.items()
        if list(tried).index(other) < list(tried).index(name)
    ]
    why = f": {', '.join(passed)}" if passed else ", the cheapest, and exact here"
    return f"--probe auto selects {name}{why}."


# -- rights and program ---------------------------------------------------------------


def _rights() -> Iterator[Line]:
    held = rights.capabilities()
    names = {
        "CAP_SYS_ADMIN": rights.CAP_SYS_ADMIN,
        "CAP_BPF": rights.CAP_BPF,
        "CAP_PERFMON": rights.CAP_PERFMON,
    }
    for name, number in names.items():
        if held >> number & 1:
            yield Line(name, "yes", "held")
        elif name == "CAP_SYS_ADMIN":
            why = "not held: no probe can be tried, and frames are hidden"
            yield Line(name, "no", why, _AS_ROOT)
        elif held >> rights.CAP_SYS_ADMIN & 1:
            yield Line(name, "", "not held; CAP_SYS_ADMIN includes it")
        else:
            yield Line(name, "no", "not held")
    if not rights.in_initial_user_namespace():
        why = "capabilities of a user namespace do not count for BPF and pagemap"
        yield Line("user namespace", "no", why, "run it on the host")


def _architecture() -> Line:
    try:
        check_architecture()
    except TraceError as error:
        return Line("architecture", "no", error.message, error.hint)
    return Line("architecture", "yes", f"x86-64, {page_table_levels()} page-table levels")


def _bcc() -> Line:
    try:
        with Compilation("", bpf_dir()) as compilation:
            found = compilation.answer()
    except TraceError as error:
        return Line("bcc", "no", error.message, error.hint)
    return Line("bcc", "yes", f"{found.bcc_version} in {found.bcc_folder}")


def _c_headers() -> Line:
    if Path("/usr/include/linux/types.h").exists():
        return Line("C headers", "yes", "/usr/include/linux")
    why = "/usr/include/linux is missing: the probes cannot be compiled"
    return Line("C headers", "no", why, "install linux-libc-dev (Debian) or kernel-headers")


def _kernel_headers() -> Line:
    folder = Path(f"/lib/modules/{os.uname().release}/build")
    if folder.exists():
        return Line("kernel headers", "", f"{folder}, not needed")
    return Line("kernel headers", "", "not there, not needed")


def _btf() -> Line:
    try:
        with Btf() as btf:
            size = btf.struct_size("vm_area_struct")
    except TraceError as error:
        return Line("BTF", "no", error.message, error.hint)
    return Line("BTF", "yes", f"a vm_area_struct has {size} bytes here")


# -- hooks ----------------------------------------------------------------------------


def _try(name: str, root: bool) -> Tried:
    """Compile, load and attach a probe, calibrate its walk, and detach it again."""
    if not root:
        return Tried(_NOT_TRIED)
    try:
        with contextlib.closing(attach(name, bpf_dir(), _RING_BYTES, anonymous=True)) as attached:
            return Tried("", attached.direct_map, attached.program.hooks_anonymous)
    except TraceError as error:
        return Tried(_reason(name, error.message))


def _reason(name: str, message: str) -> str:
    """Of "this kernel refuses the probe fentry: fentry: …", what follows."""
    for prefix in (
        f"this kernel refuses the probe {name}: ",
        f"{name}: ",
        f"PROBE_{name.upper()}: ",
        "bpf: ",
    ):
        message = message.removeprefix(prefix)
    return message


def _probes(tried: dict[str, Tried]) -> Iterator[Line]:
    for name, each in tried.items():
        if each.refusal:
            advice = _AS_ROOT if each.refusal == _NOT_TRIED else _NEEDS[name]
            yield Line(name, "no", each.refusal, advice)
        elif inexact := PROBES[name].inexact():
            yield Line(name, "some", f"attached, but {inexact}")
        elif name == "perf":
            why = "attached; faults of populate, mlock and other processes are counted, not seen"
            yield Line(name, "yes", why)
        else:
            yield Line(name, "yes", "attached to handle_mm_fault and its return")


def _anonymous(tried: dict[str, Tried]) -> Line:
    name = "do_anonymous_page"
    by = [probe for probe, each in tried.items() if each.anonymous]
    if by:
        return Line(name, "yes", f"can be hooked by {' and '.join(by)}")
    if not has_symbol(name):
        return Line(name, "", "inlined by the compiler: page-table entries are used instead")
    return Line(name, "", "cannot be hooked here: page-table entries are used instead")


def _preemption() -> Line:
    model = preemption()
    if model in ("none", "voluntary"):
        return Line("preemption", "", f"{model}: handlers are not preempted, fentry is exact")
    if model == "unknown":
        return Line("preemption", "", "not known: fentry is assumed to miss faults")
    return Line("preemption", "", f"{model}: a preempted handler makes fentry miss faults")


# -- frames ----------------------------------------------------------------------------


def _frames() -> Line:
    if frames_visible():
        return Line("frames in pagemap", "yes", "shown")
    return Line("frames in pagemap", "no", "hidden without CAP_SYS_ADMIN", _AS_ROOT)


def _walk(tried: dict[str, Tried]) -> Line:
    name = "frames in the probe"
    walks = [each.walk for each in tried.values() if each.walk is not None]
    for walk in walks:
        if walk.base:
            return Line(name, "yes", f"page-table walk {walk.reason}")
    if walks:
        return Line(name, "no", walks[0].reason, "frames are known from snapshots only")
    return Line(name, "no", "no probe works that could walk page tables")


def _scan() -> Line:
    descriptor = -1
    try:
        descriptor = open_pagemap(os.getpid())
        if scan_available(descriptor):
            return Line("PAGEMAP_SCAN", "yes", "snapshots skip unpopulated ranges")
        why = "since Linux 6.7; without it snapshots of huge mappings take longer"
        return Line("PAGEMAP_SCAN", "", why)
    except (TraceError, OSError) as error:
        return Line("PAGEMAP_SCAN", "no", str(error))
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _sideband() -> Line:
    name = "new mappings"
    try:
        Sideband().close()
    except TraceError as error:
        return Line(name, "no", error.message, error.hint)
    return Line(name, "yes", "reported by perf as they are made")


def _pin() -> Line:
    name = "memory after exit"
    try:
        PinHelper().close()
    except PinUnavailable as error:
        return Line(name, "no", f"{error}: no last snapshot of a command's memory")
    return Line(name, "yes", "kept by userfaultfd for the last snapshot")


# -- large pages -----------------------------------------------------------------------


def _setting(name: str, read: Callable[[], str], what: str) -> Line:
    setting = read()
    if not setting:
        return Line(name, "no", "not in this kernel")
    answer: Answer = "no" if setting in ("never", "deny") else "yes"
    return Line(name, answer, f"{setting}{what}")


def _transparent() -> Line:
    return _setting("anonymous", hugepages.transparent, " (transparent_hugepage/enabled)")


def _shmem() -> Line:
    return _setting("shared", hugepages.transparent_shmem, " (transparent_hugepage/shmem_enabled)")


def _folios() -> Line:
    sizes = hugepages.folio_sizes()
    if not sizes:
        return Line("sizes", "", "a fault maps one page")
    each = ", ".join(f"{_size(kib)} {setting}" for kib, setting in sizes.items())
    return Line("sizes", "yes", f"{each}: a fault may map as much at once")


def _hugetlb() -> Line:
    pages, kib = hugepages.reserved()
    if not kib:
        return Line("hugetlb", "no", "not in this kernel")
    return Line("hugetlb", "yes" if pages else "no", f"{pages} pages of {_size(kib)} reserved")


def _size(kib: int) -> str:
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"
