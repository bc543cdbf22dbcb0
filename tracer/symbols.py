"""Instruction addresses as function+offset.

A user address is named by its place in the file that was mapped there at the
time, so processes that have ended still have their names; a kernel address by
kallsyms. What has no symbol is named by file and offset, never guessed.
"""

import bisect
import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from tracer import elf
from tracer.elf import Functions, Rules
from tracer.procfs.kallsyms import read_kallsyms
from tracer.rows import Region
from tracer.unwind import Rule

_KERNEL = np.uint64(1 << 63)  # x86-64: the upper half of the address space
_LARGEST_FUNCTION = 1 << 20  # beyond: code kallsyms does not list (kallsyms gives no sizes)
_MOST_KNOWN = 1 << 17  # named addresses that are remembered
_MOST_OPEN = 256  # files whose call frame information is kept at hand
_MOST_BYTES = 1 << 27  # of symbol tables that are kept, however many files there are
_AT_LEAST = 100  # bytes of one that has none

Array = npt.NDArray[np.uint64]


def no_file(number: int) -> int:
    """Nothing is known of the files that were mapped."""
    raise FileNotFoundError(number)


class Symbols:
    """Names of addresses, each file read once and each address named once."""

    def __init__(
        self,
        regions: Sequence[Region],
        open_file: Callable[[int], int] = no_file,
        kallsyms: Callable[[], tuple[list[int], list[str]]] = read_kallsyms,
    ) -> None:
        """`regions` as in rows.Names; `open_file` as CodeFiles.open, by Region.file."""
        self._regions = regions
        self._open_file = open_file
        self._kallsyms = kallsyms
        self._kernel: tuple[list[int], list[str]] | None = None
        self._files: dict[int, Functions | None] = {}  # by number, as what follows
        self._kept = 0  # bytes of them
        self._build_ids: dict[int, str] = {}
        self._unwinding: dict[int, Rules | None] = {}
        self._known: dict[tuple[int, int], str] = {}

    def names(self, ips: Array, region_ids: npt.NDArray[np.uint32], offsets: Array) -> list[str]:
        """Names of instructions, raw, each in its region (0: not known); "" for ip 0.

        `offsets` are those in what is mapped there, and of no meaning for region 0.
        Shapes (n,), (n,), (n,). "malloc+0x1c", "libc.so.6+0x9f3c0" where the file has
        no symbol there, "[anon]+0x40", or the bare address.
        """
        result = np.empty(len(ips), dtype=object)
        region_ids = np.where((ips == 0) | (ips >= _KERNEL), 0, region_ids)  # [vsyscall], too
        for region_id in np.unique(region_ids).tolist():
            mine = region_ids == region_id
            wanted = offsets if region_id else ips
            distinct, inverse = np.unique(wanted[mine], return_inverse=True)
            named = [self.name(where, region_id) for where in distinct.tolist()]
            result[mine] = np.array(named, dtype=object)[inverse]
        texts: list[str] = result.tolist()
        return texts

    def name(self, where: int, region_id: int) -> str:
        """`names` of one instruction: by its offset in its region, in region 0 by its address.

        What maps a file at ever new places, as programs do that are started anew,
        has the same few offsets in it.
        """
        known = self._known.get((where, region_id))
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[where, region_id] = self._find(where, region_id)
        return known

    def _find(self, where: int, region_id: int) -> str:
        if not region_id:
            return self._bare(where)
        region = self._regions[region_id]
        name = region.name
        if not name.startswith("/"):
            return f"{name}+{where:#x}"
        found = self.function(region.file, where)
        if found:
            return f"{found[0]}+{found[1]:#x}"
        return f"{name.rpartition('/')[2]}+{where:#x}"

    def _bare(self, ip: int) -> str:
        if ip >= _KERNEL:
            found = self.kernel_function(ip)
            return f"{found[0]}+{found[1]:#x}" if found else f"{ip:#x}"
        return f"{ip:#x}" if ip else ""

    def function(self, file: int, offset: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the function at `offset` in a mapped file; None: not known."""
        functions = self._functions(file)
        return functions.at(offset) if functions else None

    def build_id(self, file: int) -> str:
        """That of a mapped file, in hexadecimal; "" where there is none, or not the file."""
        if file not in self._build_ids:
            self._build_ids[file] = elf.build_id(partial(self.open, file))
        return self._build_ids[file]

    def rule(self, file: int, offset: int) -> Rule | None:
        """How the code at `offset` in a mapped file keeps its caller; None: not known."""
        if file not in self._unwinding:
            room = len(self._unwinding) < _MOST_OPEN
            self._unwinding[file] = elf.unwinding(partial(self._open_file, file)) if room else None
        found = self._unwinding[file]
        return found(offset) if found is not None else None

    def open(self, file: int) -> int:
        """A descriptor to read a mapped file; raises OSError where it is out of reach."""
        try:
            return self._open_file(file)
        except OSError:
            rules = self._unwinding.get(file)
            if rules is None:
                raise
            return os.open(f"/proc/self/fd/{rules.fileno()}", os.O_RDONLY | os.O_CLOEXEC)

    def _functions(self, file: int) -> Functions | None:
        if file not in self._files:
            if self._kept > _MOST_BYTES:
                self._files.clear()
                self._kept = 0
            found = self._files[file] = elf.functions(partial(self.open, file))
            self._kept += _AT_LEAST + (found.size() if found else 0)
        return self._files[file]

    def prepare(self) -> tuple[list[int], list[str]]:
        """Read the kernel's symbols now: later what is traced would have to wait for it."""
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
