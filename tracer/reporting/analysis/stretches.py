"""Anonymous memory split by address: the files do not say where a mapping begins and ends."""

import numpy as np

from tracer.common.pages import PAGE_SHIFT
from tracer.common.types import I64, U64, Index
from tracer.model.rows import ANONYMOUS
from tracer.reporting.analysis.findings import HUGE
from tracer.reporting.reading.codes import Codes, combined
from tracer.reporting.reading.run import Run

MOST = 6  # of one name and permissions; the others are one
_NEAR = 512  # pages: what is nearer is treated as one
_LEAST = 64  # pages: a gap that may be in any array …
_TIMES = 16  # … or so many times the usual one: between pages touched at random


RegionKey = tuple[str, str]  # name and permissions; of anonymous memory the name says which


def split_regions(run: Run) -> tuple[Codes, list[RegionKey], dict[RegionKey, int]]:
    """The region of each fault, and how many pages of each have a frame at the end."""
    region, perms, pages = run.faults.region, run.faults.perms, run.pages
    numbers = np.zeros(len(run.faults), np.int64)  # of stretches, from 1
    left = np.zeros(len(pages) if pages is not None else 0, np.int64)  # the same of pages
    firsts = [0]  # page of each
    for word in ANONYMOUS:
        rows = np.flatnonzero(region.mask(word))
        if not len(rows):
            continue
        starts, before = _stretches(_touched(run, word, rows)), len(firsts) - 1
        numbers[rows] = np.searchsorted(starts, run.faults.page[rows], side="right") + before
        if pages is not None:
            mine = np.flatnonzero(pages.region.mask(word))
            left[mine] = np.searchsorted(starts, pages.page[mine], side="right") + before
        firsts += starts.tolist()
    sizes = (region.codes, len(region.words)), (perms.codes, len(perms.words))
    codes, found = combined(*sizes, (numbers, len(firsts)))
    counts = np.bincount(codes, minlength=len(found)).tolist()
    kept: dict[tuple[int, ...], list[int]] = {}
    for at in sorted(range(len(found)), key=lambda at: -counts[at]):
        kept.setdefault(found[at][:2], []).append(at)
    into, names = np.zeros(len(found), np.int64), list[RegionKey]()
    for (name, perm), alike in kept.items():
        for at in alike[:MOST]:
            into[at] = len(names)
            first = firsts[found[at][2]]
            more = f" {first << PAGE_SHIFT:#x}" if found[at][2] else ""
            names.append((region.words[name] + more, perms.words[perm]))
        if rest := alike[MOST:]:
            into[rest] = len(names)
            names.append((f"{region.words[name]} ({len(rest)} others)", perms.words[perm]))
    called = {
        (region.words[key[0]], perms.words[key[1]], key[2]): names[into[at]]
        for at, key in enumerate(found)
    }
    return into[codes] if len(found) else codes, names, _at_end(run, left, called)


def _at_end(
    run: Run, numbers: I64, called: dict[tuple[str, str, int], RegionKey]
) -> dict[RegionKey, int]:
    """Pages with a frame, by region; `numbers`: the stretch of each page, 0 for none."""
    counts: dict[RegionKey, int] = {}
    if run.pages is None:
        return counts
    region, perms, held = run.pages.region, run.pages.perms, run.pages.present
    sizes = (region.codes, len(region.words)), (perms.codes, len(perms.words))
    codes, found = combined(*sizes, (numbers, int(numbers.max(initial=0)) + 1))
    times = np.bincount(codes[held], minlength=len(found)).tolist()
    for key, count in zip(found, times, strict=True):
        words = region.words[key[0]], perms.words[key[1]]
        region_key = called.get((*words, key[2]), words)
        counts[region_key] = counts.get(region_key, 0) + count
    return counts


def _touched(run: Run, word: str, rows: Index) -> U64:
    """The pages of a region that had a frame, in order; of a huge page the first and the last."""
    faults = run.faults
    page, huge = faults.page[rows], faults.pages[rows] >= HUGE
    blocks = page[huge] & ~np.uint64(HUGE - 1)
    parts = [page, blocks, blocks + np.uint64(HUGE - 1)]
    if run.pages is not None:
        parts.append(run.pages.page[run.pages.region.mask(word)])
    return np.unique(np.concatenate(parts))


def _stretches(pages: U64) -> U64:
    """The first page of each stretch, whatever process it is of: a forked child has it, too."""
    gaps: I64 = np.diff(pages).astype(np.int64)
    near = np.append(0, np.cumsum(gaps > _NEAR))  # of each page: which of those together
    count = np.bincount(near)
    usual = np.bincount(near[1:], weights=np.where(gaps > _NEAR, 0, gaps), minlength=len(count))
    usual = np.maximum(usual / np.maximum(count - 1, 1), 1)
    least = np.minimum(usual[near[1:]], usual[near[:-1]])
    limit = np.maximum(_LEAST, _TIMES * least)
    return np.asarray(pages[np.append(True, gaps > limit)])
