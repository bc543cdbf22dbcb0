"""Instruction addresses as function+offset.

A user address is named by its offset in the file that was mapped there at the
time, so processes that have ended still have their names; a kernel address by
kallsyms. What has no symbol is named by file and offset, never guessed.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np

from tracer.common.types import U32, U64
from tracer.model.rows import Region
from tracer.procfs.kallsyms import read_kallsyms
from tracer.symbolizing.lookup import WAIT_S, Lookup

_KERNEL = np.uint64(1 << 63)  # x86-64: the upper half of the address space
_LARGEST_FUNCTION = 1 << 20  # beyond: code kallsyms does not list (kallsyms gives no sizes)
_MOST_KNOWN = 1 << 17  # named addresses that are remembered
_MOST_TEXT = 1 << 25  # characters of their names


class Symbols:
    """Names of addresses, each address named once."""

    def __init__(
        self,
        regions: Sequence[Region],
        lookup: Lookup,
        kallsyms: Callable[[], tuple[list[int], list[str]]] = read_kallsyms,
    ) -> None:
        """`regions` as in rows.Names; `lookup` knows files by Region.file."""
        self.lookup = lookup
        self._regions = regions
        self._kallsyms = kallsyms
        self._kernel: tuple[list[int], list[str]] | None = None
        self._known: dict[tuple[int, int], str] = {}
        self._text = 0  # characters of them

    def names(
        self,
        ips: U64,
        region_ids: U32,
        offsets: U64,
        wait_s: float = WAIT_S,
    ) -> tuple[list[str], bool]:
        """Names of instructions, raw, each in its region (0: not known); "" for ip 0.

        `offsets` are those in what is mapped there, and of no meaning for region 0.
        Shapes (n,), (n,), (n,). "malloc+0x1c", "libc.so.6+0x9f3c0" where the file has
        no symbol there, "[anon]+0x40", or the bare address.

        Second, whether all that can be known is: files are read elsewhere, and after `wait_s` at
        most those that are not read yet have names as if they had no symbols.
        """
        result = np.empty(len(ips), dtype=object)
        region_ids = np.where((ips == 0) | (ips >= _KERNEL), 0, region_ids)  # [vsyscall], too
        groups = []
        for region_id in np.unique(region_ids).tolist():
            mine = region_ids == region_id
            wanted = offsets if region_id else ips
            distinct, inverse = np.unique(wanted[mine], return_inverse=True)
            groups.append((mine, region_id, distinct.tolist(), inverse))
        waits = [self._ask(region_id, wanted) for _, region_id, wanted, _ in groups]
        if any(waits) and wait_s:
            self.lookup.wait_briefly(wait_s)
        complete = True
        for mine, region_id, wanted, inverse in groups:
            named = [self._named(where, region_id) for where in wanted]
            complete = complete and all(settled for _, settled in named)
            result[mine] = np.array([name for name, _ in named], dtype=object)[inverse]
        texts: list[str] = result.tolist()
        return texts, complete

    def name(self, where: int, region_id: int) -> str:
        """`names` of one instruction: by its offset in its region, in region 0 by its address.

        What maps a file at ever new addresses, as programs do that are started anew,
        has the same few offsets in it.
        """
        return self._named(where, region_id)[0]

    def _named(self, where: int, region_id: int) -> tuple[str, bool]:
        """The name as far as it is known, and whether that is all."""
        known = self._known.get((where, region_id))
        if known is not None:
            return known, True
        name, file = self._find(where, region_id), self._file(region_id)
        settled = not file or self.lookup.settled("functions", file, where)
        if settled:
            if len(self._known) >= _MOST_KNOWN or self._text >= _MOST_TEXT:
                self._known.clear()
                self._text = 0
            self._known[where, region_id] = name
            self._text += len(name)
        return name, settled

    def _ask(self, region_id: int, wanted: Sequence[int]) -> bool:
        """Request functions that are not known; whether there are any."""
        file = self._file(region_id)
        unknown = [where for where in wanted if (where, region_id) not in self._known]
        if not file or not unknown:
            return False
        self.lookup.ask("functions", file, unknown)
        return True

    def _file(self, region_id: int) -> int:
        """The file to look names up in; 0: none."""
        region = self._regions[region_id] if region_id else None
        return region.file if region is not None and region.name.startswith("/") else 0

    def _find(self, where: int, region_id: int) -> str:
        if not region_id:
            return self._bare(where)
        region = self._regions[region_id]
        name = region.name
        if not name.startswith("/"):
            return f"{name}+{where:#x}"
        found = self.lookup.function(region.file, where) if region.file else None
        if found:
            return f"{found[0]}+{found[1]:#x}"
        why = self.lookup.failed.get(region.file)
        return f"{name.rpartition('/')[2]}+{where:#x}" + (f" (no symbols: {why})" if why else "")

    def _bare(self, ip: int) -> str:
        if ip >= _KERNEL:
            found = self.kernel_function(ip)
            return f"{found[0]}+{found[1]:#x}" if found else f"{ip:#x}"
        return f"{ip:#x}" if ip else ""

    def prepare(self) -> tuple[list[int], list[str]]:
        """Read the kernel's symbols now, so that tracing does not wait for it later."""
        if self._kernel is None:
            self._kernel = self._kallsyms()
        return self._kernel

    def kernel_function(self, ip: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the kernel's function at an address; None: not known."""
        addresses, names = self.prepare()
        at = bisect.bisect_right(addresses, ip) - 1
        if at < 0 or ip - addresses[at] >= _LARGEST_FUNCTION:
            return None
        return names[at], ip - addresses[at]
