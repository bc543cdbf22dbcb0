"""Why a page gained its frame, and why the frame was released: enums of the page timeline."""

from enum import IntEnum


class Source(IntEnum):
    """Why a page gained a frame."""

    NONE = 0
    INITIAL = 1  # present when tracing began
    FAULT = 2  # its own fault
    AROUND = 3  # mapped by a neighbour's fault: fault-around, a large folio, a huge page
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
    MISSED = 15  # by a fault no hook saw (dropped, or blind on this probe)
    FILTERED = 16  # by a fault that --range or --min-latency left out
    SPLIT = 17  # a huge page was split: the zero page replaces a part that held nothing


class Loss(IntEnum):
    """Why a page's frame was released."""

    NONE = 0
    MUNMAP = 1
    MADVISE = 2  # MADV_DONTNEED, MADV_REMOVE, MADV_FREE once reclaimed
    RECLAIM = 3  # swapped out, or a clean file page dropped
    MOVE = 4  # mremap moved it to another address
    REPLACED = 5  # another frame replaced it: copy-on-write, migration, collapse
    EXIT = 6  # its process ended, or replaced its address space by exec
    TRUNCATE = 7  # no longer in the file's page cache: truncated, or a hole was punched
    UNKNOWN = 8
    MISSED = 9  # by something no hook saw: handlers were skipped, or records dropped
    SPLIT = 10  # a file's huge page was split, for which it is unmapped
    COLLAPSE = 11  # a file's pages were made a huge one, for which they are unmapped
