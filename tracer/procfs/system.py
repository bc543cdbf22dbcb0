"""System-wide files of /proc and /sys: page migration and reclaim, swap, file systems, CPUs."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import kernel_device, mount_filesystems, read_maps
from tracer.procfs.pagemap import PageMap, present

_MOVERS = {
    "pgmigrate_success": "migrate",
    "thp_migration_success": "migrate",
    "numa_pages_migrated": "migrate",
    "compact_success": "migrate",
    "thp_collapse_alloc": "collapse",
    "thp_split_page": "split",
    "thp_split_pmd": "split",
    "ksm_swpin_copy": "ksm",
    "cow_ksm": "ksm",
    "pgsteal_anon": "reclaim",  # control groups' reclaim included, unlike pgsteal_kswapd
    "pgsteal_file": "reclaim",
    "pglazyfreed": "reclaim",
    "pswpout": "reclaim",
    "zswpout": "reclaim",
}


def movement_counters() -> dict[str, int]:
    """System-wide counts of pages moved or reclaimed since boot, by kind (/proc/vmstat).

    An unchanged counter proves that there was none of that kind.
    """
    totals: dict[str, int] = {}
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in _MOVERS:
            totals[_MOVERS[name]] = totals.get(_MOVERS[name], 0) + int(value)
    ksm = Path("/sys/kernel/mm/ksm")
    if ksm.exists():
        # Unmerging all pages (2 in `run`) resets the scans to 0.
        apart = int(ksm.joinpath("run").read_text()) == 2
        scans = int(ksm.joinpath("full_scans").read_text())
        totals["ksm"] = totals.get("ksm", 0) + 2 * scans + apart
    return totals


class SwapAreas:
    """Counts swapoffs by reading /proc/swaps: the kernel has no counter of them."""

    def __init__(self) -> None:
        self._on = _swap_areas()
        self._off = 0

    def swapoffs(self) -> int:
        """Number of swap areas removed since this was created."""
        now = _swap_areas()
        self._off += len(self._on - now)
        self._on = now
        return self._off


def _swap_areas() -> set[str]:
    """The devices and files in use as swap (proc(5), swaps)."""
    lines = Path("/proc/swaps").read_text(errors="surrogateescape").splitlines()
    return {line.split(maxsplit=1)[0] for line in lines[1:]}


_MFD_HUGETLB, _HUGE_SHIFT = 0x4, 26  # include/uapi/linux/memfd.h


class FileSystems:
    """The file system type of a mapping's device, in any mount namespace."""

    def __init__(self) -> None:
        self._known = {0: ""} | mount_filesystems(os.getpid()) | _own_mounts()

    def of(self, device: int, pids: Iterable[int] = ()) -> str:
        """The type of the file system on `device` (kernel encoding), "" where unknown.

        `pids`: processes whose mounts to read where it is none of ours.
        """
        if device not in self._known:
            seen: set[str] = set()
            for pid in pids:
                with contextlib.suppress(OSError, ProcessGone):
                    namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                    if namespace not in seen:
                        seen.add(namespace)
                        self._known = mount_filesystems(pid) | self._known
            self._known.setdefault(device, "")
        return self._known[device]


def _own_mounts() -> dict[int, str]:
    """The kernel-internal mounts of memfd and shared anonymous memory, not in mountinfo."""
    flags = {0: "tmpfs"}
    for folder in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = int(folder.name.removeprefix("hugepages-").removesuffix("kB")) << 10
        flags[_MFD_HUGETLB | (size.bit_length() - 1) << _HUGE_SHIFT] = "hugetlbfs"
    found = {}
    for flag, kind in flags.items():
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("pagefault-trace", flag)
            device = os.fstat(descriptor).st_dev
            os.close(descriptor)
            found[kernel_device(os.major(device), os.minor(device))] = kind
    return found


def large_anonymous_folios() -> bool:
    """Whether anonymous memory may come in folios between a page and a huge page (mTHP, since 6.8).

    admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled, each "never" by default.
    """
    for enabled in Path("/sys/kernel/mm/transparent_hugepage").glob("hugepages-*kB/enabled"):
        if enabled.parent.name != "hugepages-2048kB" and "[never]" not in enabled.read_text():
            return True
    return False


def shows_vvar() -> bool:
    """Whether pagemap shows the vDSO data pages, [vvar]: tested on our own.

    It omits VM_PFNMAP mappings (fs/proc/task_mmu.c), which [vvar] is on older kernels.
    """
    time.monotonic_ns()  # the vdso reads the clock page: it is mapped now
    with PageMap(os.getpid()) as pagemap:
        for mapping in read_maps(os.getpid()):
            if mapping.path == "[vvar]":
                return bool(present(pagemap.read(mapping.start, mapping.end)).any())
    return False


def online_cpus() -> str:
    """The online CPUs, as the kernel lists them ("0-3,5"); "" where unknown."""
    try:
        return Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return ""


def possible_cpus() -> int:
    """Number of possible CPUs (cpu/possible), and so of a per-CPU map's values."""
    count = 0
    for part in Path("/sys/devices/system/cpu/possible").read_text().strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
