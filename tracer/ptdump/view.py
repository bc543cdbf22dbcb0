"""Which rows of a dump are in sight, and how a page that just gained a frame is marked."""

from tracer.ptdump.dump import Row, line

MARK = "+"


class View:
    """Which rows of a long dump fit the screen: it moves so that the latest gain is in sight."""

    def __init__(self) -> None:
        self._top = 0

    def window(self, count: int, height: int, latest: int | None) -> range:
        """Indices of the rows to show of `count`; `latest` is the row that must be among them."""
        if latest is not None and not self._top <= latest < self._top + height:
            self._top = latest - height // 2
        self._top = max(0, min(self._top, count - height))
        return range(self._top, min(count, self._top + height))


def marked(row: Row, visible: bool, gained: bool) -> str:
    """`line`, with the mark right after the address of a page that just gained a frame."""
    text = line(row, visible)
    if not gained:
        return text
    position = len(f"{row.address:#x}") + 1
    return text[:position] + MARK + text[position + 1 :]
