"""Instruction addresses as function+offset.

A user address is named by its place in the file that was mapped there at the
time, so processes that have ended still have their names; a kernel address by
kallsyms. What has no symbol is named by file and offset, never guessed.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tracer import elf
from tracer.elf import Functions
from tracer.procfs.kallsyms import read_kallsyms
from tracer.rows import Region
from tracer.text import printable

_KERNEL = 1 << 63  # x86-64: the upper half of the address space
_LARGEST_FUNCTION = 1 << 20  # beyond: code kallsyms does not list (kallsyms gives no sizes)
_DELETED = " (deleted)"

Array = npt.NDArray[np.uint64]


def no_inode(path: str) -> int | None:
    """Nothing is known of the file that was mapped."""
    return None


class Symbols:
    """Names of addresses, each file read once and each address named once."""

    def __init__(
        self,
        regions: Sequence[Region],
        inode_of: Callable[[str], int | None] = no_inode,
        kallsyms: Callable[[], tuple[list[int], list[str]]] = read_kallsyms,
    ) -> None:
        """`regions` as in rows.Names; `inode_of` tells which file a mapped path stood for."""
        self._regions = regions
        self._inode_of = inode_of
        self._kallsyms = kallsyms
        self._kernel: tuple[list[int], list[str]] | None = None
        self._files: dict[str, Functions | None] = {}
        self._known: dict[tuple[int, int], str] = {}

    def names(self, ips: Array, region_ids: npt.NDArray[np.uint32]) -> list[str]:
        """Printable names of instructions, each in its region (0: not known); "" for ip 0.

        Shapes (n,), (n,). "malloc+0x1c", "libc.so.6+0x9f3c0" where the file has
        no symbol there, "[anon]+0x40", or the bare address.
        """
        result = np.empty(len(ips), dtype=object)
        for region_id in np.unique(region_ids).tolist():
            mine = region_ids == region_id
            distinct, inverse = np.unique(ips[mine], return_inverse=True)
            named = [self.name(ip, region_id) for ip in distinct.tolist()]
            result[mine] = np.array(named, dtype=object)[inverse]
        texts: list[str] = result.tolist()
        return texts

    def name(self, ip: int, region_id: int) -> str:
        """`names` of one instruction."""
        known = self._known.get((ip, region_id))
        if known is None:
            known = self._known[ip, region_id] = printable(self._find(ip, region_id))
        return known

    def _find(self, ip: int, region_id: int) -> str:
        if not ip:
            return ""
        if ip >= _KERNEL:
            return self._kernel_name(ip)
        region = self._regions[region_id]
        if not region.start <= ip < region.end:
            return f"{ip:#x}"
        offset = ip - region.start + region.offset
        if not region.name.startswith("/"):
            return f"{region.name}+{offset:#x}"
        functions = self._functions(region.name)
        found = functions.at(offset) if functions else None
        if found:
            return f"{found[0]}+{found[1]:#x}"
        return f"{region.name.rpartition('/')[2]}+{offset:#x}"

    def _functions(self, path: str) -> Functions | None:
        if path not in self._files:
            # maps spells a newline so, and what replaced a deleted file is another file
            spelled = path.replace("\\012", "\n").encode("utf-8", "surrogateescape")
            self._files[path] = (
                None
                if path.endswith(_DELETED)
                else elf.functions(spelled.decode("utf-8", "surrogateescape"), self._inode_of(path))
            )
        return self._files[path]

    def _kernel_name(self, ip: int) -> str:
        if self._kernel is None:
            self._kernel = self._kallsyms()
        addresses, names = self._kernel
        at = bisect.bisect_right(addresses, ip) - 1
        if at < 0 or ip - addresses[at] >= _LARGEST_FUNCTION:
            return f"{ip:#x}"
        return f"{names[at]}+{ip - addresses[at]:#x}"
