"""Machine-wide files of /proc and /sys: what the kernel moved at all, where tmpfs is mounted."""

import os
import time
from pathlib import Path

from tracer.procfs.maps import read_maps
from tracer.procfs.pagemap import PageMap, present

_MOVERS = {
    "pgmigrate_success": "migrate",
    "thp_migration_success": "migrate",
    "numa_pages_migrated": "migrate",
    "compact_success": "migrate",
    "thp_collapse_alloc": "collapse",
    "thp_file_alloc": "collapse",
    "ksm_swpin_copy": "ksm",
    "cow_ksm": "ksm",
    "pgsteal_kswapd": "reclaim",
    "pgsteal_direct": "reclaim",
    "pgsteal_proactive": "reclaim",
    "pglazyfreed": "reclaim",
    "swap_ra": "swapoff",
}


def movement_counters() -> dict[str, int]:
    """How often the kernel moved pages of anyone since boot, by kind of movement (/proc/vmstat).

    A counter that has not moved proves that this movement did not happen.
    """
    totals: dict[str, int] = {}
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in _MOVERS:
            totals[_MOVERS[name]] = totals.get(_MOVERS[name], 0) + int(value)
    shared = Path("/sys/kernel/mm/ksm/pages_shared")
    if shared.exists():
        totals["ksm"] = totals.get("ksm", 0) + int(shared.read_text())
    return totals


class Mounts:
    """Which file system a path lies on, as far as our own mount table tells (proc(5), mounts)."""

    def __init__(self, table: str) -> None:
        self._kinds: dict[str, str] = {}
        for line in table.splitlines():
            _, point, kind, *_ = line.split(" ")
            self._kinds[point.rstrip("/")] = kind  # the last mount on a point covers the others

    def on_tmpfs(self, path: str) -> bool:
        """Whether the deepest mount above `path` is a tmpfs (or devtmpfs)."""
        while path and path not in self._kinds:
            path = path.rpartition("/")[0]
        return self._kinds.get(path) in ("tmpfs", "devtmpfs")


def mounts() -> Mounts:
    """Our mount table now."""
    return Mounts(Path("/proc/self/mounts").read_text(errors="surrogateescape"))


def large_anonymous_folios() -> bool:
    """Whether anonymous memory may come in folios between a page and a huge page (mTHP, since 6.8).

    admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled, each "never" by default.
    """
    for enabled in Path("/sys/kernel/mm/transparent_hugepage").glob("hugepages-*kB/enabled"):
        if enabled.parent.name != "hugepages-2048kB" and "[never]" not in enabled.read_text():
            return True
    return False


def shows_vvar() -> bool:
    """Whether pagemap shows the kernel's clock pages, [vvar]: tried on our own.

    It leaves VM_PFNMAP mappings out (fs/proc/task_mmu.c); older kernels map [vvar] so.
    """
    time.monotonic_ns()  # the vdso reads the clock page: it is mapped now
    with PageMap(os.getpid()) as pagemap:
        for mapping in read_maps(os.getpid()):
            if mapping.path == "[vvar]":
                return bool(present(pagemap.read(mapping.start, mapping.end)).any())
    return False
