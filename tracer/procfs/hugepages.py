"""The machine's settings for huge pages (Documentation/admin-guide/mm/transhuge.rst)."""

import re
from pathlib import Path

_THP = Path("/sys/kernel/mm/transparent_hugepage")


def selected(text: str) -> str:
    """The word in brackets: "always [madvise] never" says "madvise". "" where there is none."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""


def transparent(folder: Path = _THP) -> str:
    """When anonymous memory gets huge pages: always, madvise or never; "" without THP."""
    return selected(_read(folder / "enabled"))


def transparent_shmem(folder: Path = _THP) -> str:
    """The same for shared anonymous memory and memfd; "" without THP."""
    return selected(_read(folder / "shmem_enabled"))


def folio_sizes(folder: Path = _THP) -> dict[int, str]:
    """Sizes in KiB of folios that an anonymous fault may map, ascending, and their settings.

    A size whose setting is "inherit" has the general one; those never used are
    left out. Empty before 6.8, which has only the largest.
    """
    general = transparent(folder)
    sizes = {}
    for path in folder.glob("hugepages-*kB/enabled"):
        setting = selected(_read(path))
        setting = general if setting == "inherit" else setting
        if setting not in ("never", ""):
            kib = path.parent.name.removeprefix("hugepages-").removesuffix("kB")
            sizes[int(kib)] = setting
    return dict(sorted(sizes.items()))


def reserved(meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """(pages in the hugetlb pool of the default size, that size in KiB); zeros without hugetlb."""
    found = dict(re.findall(r"^(HugePages_Total|Hugepagesize):\s+(\d+)", _read(meminfo), re.M))
    return int(found.get("HugePages_Total", 0)), int(found.get("Hugepagesize", 0))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
