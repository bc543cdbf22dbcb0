"""What the kernel says of processes, read for tests alone: the tracer is held against it."""

import re
from collections.abc import Iterator, Sequence

from tracer.common.pages import PAGE_SIZE
from tracer.procfs.errors import ProcessGone, read_bytes
from tracer.procfs.maps import Mapping
from tracer.procfs.pagemap import Entries, PageMap

_MIN_FLT, _MAJ_FLT = 10, 12  # fields of stat, proc(5)
_SMAPS_HEADER = rb"([0-9a-f]+)-[0-9a-f]+ [rwxsp-]{4} "
_SMAPS_RSS = rb"(?m)^(?:" + _SMAPS_HEADER + rb"|Rss:\s+(\d{1,15}) kB$)"


def process_fault_count(pid: int) -> int:
    """min_flt + maj_flt of all threads of a process, those that have ended included."""
    _, _, fields = read_bytes(pid, "stat").rpartition(b")")
    if not fields:
        raise ProcessGone(pid)
    return sum(int(fields.split()[number - 3]) for number in (_MIN_FLT, _MAJ_FLT))


def rss(pid: int) -> int:
    """Resident bytes, counted page by page (smaps_rollup; statm may lag behind)."""
    match = re.search(rb"^Rss:\s+(\d{1,15}) kB$", read_bytes(pid, "smaps_rollup"), re.MULTILINE)
    if match is None:
        raise ProcessGone(pid)
    return int(match[1]) * 1024


def smaps_rss(pid: int, tid: int | None = None) -> dict[int, int]:
    """Start of each mapping -> its resident bytes, as smaps counts them.

    smaps leaves out the shared zero page, hugetlb pages and pages without struct
    page (PFNMAP, vvar): a page can be present in pagemap and not be counted here.
    """
    return parse_smaps_rss(read_bytes(pid, "smaps", tid))


def parse_smaps_rss(text: bytes) -> dict[int, int]:
    """`smaps_rss` of a smaps file's bytes."""
    resident: dict[int, int] = {}
    start = 0
    for address, kilobytes in re.findall(_SMAPS_RSS, text):
        if address:
            start = int(address, 16)
        else:
            resident[start] = int(kilobytes) * 1024
    return resident


def read_present(
    pagemap: PageMap, mappings: Sequence[Mapping]
) -> Iterator[tuple[Mapping, int, Entries]]:
    """`read_ranges` of `mappings` (ascending, as read_maps gives them), each by itself.

    Yields (mapping, address of the first page, entries), each within one mapping.
    """
    position = 0
    for first, entries in pagemap.read_ranges([(each.start, each.end) for each in mappings]):
        last = first + len(entries) * PAGE_SIZE
        while position < len(mappings) and mappings[position].end <= first:
            position += 1
        for index in range(position, len(mappings)):
            mapping = mappings[index]
            if mapping.start >= last:
                break
            low, high = max(first, mapping.start), min(last, mapping.end)
            piece = entries[(low - first) // PAGE_SIZE : (high - first) // PAGE_SIZE]
            yield mapping, low, piece
