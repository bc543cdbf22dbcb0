"""Where a page's frame came from, and where it went: the words of the page timeline."""

from enum import IntEnum


class Source(IntEnum):
    """Why a page gained a frame."""

    NONE = 0
    INITIAL = 1  # there when we came
    FAULT = 2  # its own fault
    AROUND = 3  # a neighbour's fault brought it along: fault-around, a large folio, a huge page
    FORK = 4  # page tables copied from the parent
    POPULATE = 5  # MAP_POPULATE, mlock, MADV_POPULATE, get_user_pages
    REMOTE = 6  # another process wrote into this memory
    COLLAPSE = 7
    MIGRATE = 8
    MOVE = 9  # mremap: the same frame at a new address
    KSM = 10
    UFFD = 11  # UFFDIO_COPY, ZEROPAGE, CONTINUE, MOVE
    SWAPOFF = 12
    EXEC = 13  # the kernel set up the new program's stack and image
    UNKNOWN = 14
    MISSED = 15  # by a fault no hook saw (lost, or blind on this probe)
    FILTERED = 16  # by a fault that --range or --min-latency left out
    SPLIT = 17  # a huge page was taken apart: the zero page in place of a part that held nothing


class Loss(IntEnum):
    """Why a page lost its frame."""

    NONE = 0
    MUNMAP = 1
    MADVISE = 2  # MADV_DONTNEED, MADV_REMOVE, MADV_FREE taken up
    RECLAIM = 3  # swapped out, or a clean file page dropped
    MOVE = 4  # mremap took it to another address
    REPLACED = 5  # another frame took its place: copy-on-write, migration, collapse
    EXIT = 6  # its process ended, or replaced its address space by exec
    TRUNCATE = 7  # it is no longer in the file's page cache: truncated, or a hole was made
    UNKNOWN = 8
    MISSED = 9  # by something no hook saw: handlers were skipped, or records lost
    SPLIT = 10  # a file's huge page was split, for which it is unmapped
    COLLAPSE = 11  # a file's pages were made a huge one, for which they are unmapped
