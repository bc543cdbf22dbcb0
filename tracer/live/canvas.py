"""A screen of character cells: what is drawn on it, and how it reaches the terminal.

Styles are rich's words ("bold #009e73"). Nothing drawn here may hold control
characters: names come through tracer.common.text.printable first.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.style import Style
from rich.text import Text

_MARK = "\0"


class Canvas:
    """`height` rows of `width` cells. What is put beyond an edge is cut."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._chars = [[" "] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def put(self, x: int, y: int, text: str, style: str = "", room: int | None = None) -> int:
        """Write `text` at column x of row y, in at most `room` cells; the column after it."""
        if not 0 <= y < self.height:
            return x
        end = self.width if room is None else min(self.width, x + room)
        chars, styles = self._chars[y], self._styles[y]
        if text.isascii() or all(map(_is_single, text)):
            count = max(min(len(text), end - x), 0)
            chars[x : x + count] = text[:count]
            styles[x : x + count] = [style] * count
            return x + count
        for char in text:
            width = cell_len(char)
            if x + width > end:
                break
            if width == 0:  # a combining mark
                if x > 0:
                    chars[x - 1] += char
                continue
            chars[x], styles[x] = char, style
            if width == 2:
                chars[x + 1], styles[x + 1] = "", style
            x += width
        return x

    def right(self, x: int, y: int, text: str, style: str = "") -> int:
        """Write `text` so that it ends before column x; the column it begins at."""
        start = max(x - cell_len(text), 0)
        self.put(start, y, text, style)
        return start

    def cells(self, x: int, y: int, glyphs: Sequence[str], styles: Sequence[str]) -> None:
        """Write single cells, each in a style of its own."""
        if 0 <= y < self.height:
            count = max(min(len(glyphs), self.width - x), 0)
            self._chars[y][x : x + count] = glyphs[:count]
            self._styles[y][x : x + count] = styles[:count]

    def rule(self, x: int, y: int, width: int, title: str, line: str, style: str) -> None:
        """A line with a title in it."""
        self.put(x, y, line * width, style, width)
        self.put(x + 1, y, f" {title} ", f"bold {style}", max(width - 2, 0))

    def runs(self, y: int) -> list[tuple[str, str]]:
        """A row as stretches of one style: (text, style)."""
        found, at = [], 0
        for style, run in groupby(self._styles[y]):
            end = at + len(list(run))
            found.append(("".join(self._chars[y][at:end]), style))
            at = end
        return found

    def row(self, y: int) -> tuple[list[str], list[str]]:
        """A row's characters and styles, one a cell ("" beside a wide one)."""
        return self._chars[y], self._styles[y]

    def plain(self) -> str:
        """What is written, without styles; no blanks at the ends of lines."""
        return "\n".join("".join(row).rstrip() for row in self._chars) + "\n"

    def text(self) -> Text:
        """The same for rich."""
        whole = Text(no_wrap=True, end="")
        for y in range(self.height):
            for part, style in self.runs(y):
                whole.append(part, style or None)
            whole.append("\n" if y < self.height - 1 else "")
        return whole


class Painter:
    """Turns canvases into what a terminal is to be sent: only the rows that changed."""

    def __init__(self, colours: ColorSystem | None) -> None:
        self._colours = colours
        self._rows: list[tuple[list[str], list[str]]] = []
        self._size = 0, 0

    def forget(self) -> None:
        """The terminal's picture is not what it was: draw all of the next one."""
        self._size = 0, 0

    def paint(self, canvas: Canvas) -> str:
        """Escape sequences and text that make the last picture this one."""
        size = canvas.width, canvas.height
        whole = size != self._size
        before, self._size = self._rows if not whole else [], size
        self._rows = [canvas.row(y) for y in range(canvas.height)]
        out = ["\x1b[H\x1b[2J"] if whole else []
        for y, row in enumerate(self._rows):
            if whole or row != before[y]:
                out.append(f"\x1b[{y + 1};1H")
                out += self._row(canvas.runs(y))
        if not out:
            return ""
        # As one picture, where the terminal knows how (mode 2026); others ignore it.
        return "\x1b[?2026h" + "".join(out) + "\x1b[?2026l"

    def _row(self, row: Iterable[tuple[str, str]]) -> Iterable[str]:
        for text, style in row:
            before, after = _codes(style, self._colours)
            yield f"{before}{text}{after}"


@lru_cache(maxsize=4096)
def _is_single(char: str) -> bool:
    """Whether a character takes one cell."""
    return cell_len(char) == 1


@lru_cache(maxsize=1024)
def _codes(style: str, colours: ColorSystem | None) -> tuple[str, str]:
    """The escape sequences around text of a style."""
    parsed = Style.parse(style or "none")
    if colours is None:
        parsed = parsed.without_color
        colours = ColorSystem.STANDARD  # bold, dim and reverse stay
    before, _, after = parsed.render(_MARK, color_system=colours).partition(_MARK)
    return before, after
