"""Pages and frames as numbers: the base page size of x86-64, and the value for no frame."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT  # the unit of every count of pages
NO_FRAME = (1 << 64) - 1  # no physical address; 0 is a possible one


def page_range(start: int, end: int) -> tuple[int, int]:
    """The pages that [start, end) touches: number of the first, and of the one after the last."""
    return start >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT
