"""Names read from a CSV file, made safe to show once more.

The tracer escapes what it writes (docs/csv.md, "Names"), but a file may have
been written or changed by anyone.
"""

import re

from tracer.common.text import printable

_SEMICOLON = re.compile(r"\\(?:\\|x3b)")  # an escaped backslash hides what is behind it


def shown(cell: str) -> str:
    """A cell's name as people read it: without what is there for spreadsheets only.

    That is the apostrophe in front, and semicolons escaped. Other escapes stay;
    a character a terminal could act on, which no file of ours holds, becomes one.
    """
    name = _SEMICOLON.sub(lambda found: ";" if found[0] == r"\x3b" else found[0], cell)
    return safe(name.removeprefix("'"))


def safe(text: str) -> str:
    """`text` with every unprintable character escaped; backslashes are left as they are."""
    return "\\".join(printable(part) for part in text.split("\\"))
