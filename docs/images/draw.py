"""Draw a terminal session as SVG: what script(1) recorded, in the colours it had.

    script -qec "stty cols 92; pagefault-trace -- sort /etc/passwd -o /dev/null" session
    python docs/images/draw.py session "sudo pagefault-trace -- …" 1-24 90- > trace.svg

The arguments after the command shown name the lines of the session to keep,
counted from 1; what is left out between them shows as an ellipsis. Every run of
characters has a place of its own, so that columns stay columns in any font.
"""

import re
import sys
from html import escape

CELL, LINE, SIZE, EDGE = 8.4, 18, 14, 16
PAPER, INK = "#1d1f21", "#d4d7d9"
BASIC = ["#777c80", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d4d7d9"]
ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
RUN = re.compile(r"\S+(?: \S+)*")


def styled(line: str) -> list[tuple[int, str, str]]:
    """(column, text, SVG attributes) of each run of one style without two spaces in a row."""
    runs: list[tuple[int, str, str]] = []
    column, attributes = 0, ""
    parts = ESCAPE.split(line)
    for index, part in enumerate(parts):
        if index % 2:
            attributes = style(part, attributes)
            continue
        runs += [(column + run.start(), run.group(), attributes) for run in RUN.finditer(part)]
        column += len(part)
    return runs


def style(codes: str, before: str) -> str:
    """The attributes after an escape sequence; 0 or nothing resets them (console_codes(4))."""
    numbers = [int(code or 0) for code in codes.split(";")]
    found = "" if 0 in numbers else before
    while numbers:
        number = numbers.pop(0)
        if number == 1:
            found += ' font-weight="bold"'
        elif number == 2:
            found += ' opacity="0.6"'
        elif 30 <= number <= 37 or 90 <= number <= 97:
            found += f' fill="{BASIC[number % 10]}"'
        elif number == 38:
            wanted = numbers[1:4] if numbers[0] == 2 else cube(numbers[1])
            del numbers[: 4 if numbers[0] == 2 else 2]
            found += ' fill="#{:02x}{:02x}{:02x}"'.format(*wanted)
    return found


def cube(number: int) -> list[int]:
    """The red, green and blue of one of xterm's 256 colours."""
    if number < 16:
        return [int(BASIC[number % 8][at : at + 2], 16) for at in (1, 3, 5)]
    if number >= 232:
        return [8 + 10 * (number - 232)] * 3
    steps = [0, 95, 135, 175, 215, 255]
    return [steps[(number - 16) // each % 6] for each in (36, 6, 1)]


def kept(lines: list[str], spans: list[str]) -> list[str]:
    """The lines of `spans`, with an ellipsis where they leave a gap."""
    found: list[str] = []
    for span in spans or ["1-"]:
        first, _, last = span.partition("-")
        found += ["   ⋮"] if found else []
        found += lines[int(first) - 1 : int(last) if last else None]
    return found


def draw(lines: list[str]) -> str:
    plain = max(len(ESCAPE.sub("", line)) for line in lines)
    width, height = plain * CELL + 2 * EDGE, len(lines) * LINE + 2 * EDGE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" '
        f'font-size="{SIZE}" fill="{INK}">',
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for number, line in enumerate(lines):
        y = EDGE + number * LINE + SIZE
        for column, text, attributes in styled(line):
            out.append(
                f'<text x="{EDGE + column * CELL:.1f}" y="{y}" '
                f'textLength="{len(text) * CELL:.1f}"{attributes}>{escape(text)}</text>'
            )
    return "\n".join([*out, "</svg>"])


def main() -> None:
    session, command, *spans = sys.argv[1:]
    with open(session, encoding="utf-8", newline="") as file:
        lines = file.read().replace("\r\n", "\n").split("\n")
    lines = [line for line in lines[1:] if not line.startswith("Script done")]
    while lines and not lines[-1].strip():
        lines.pop()
    print(draw([f"\x1b[2m$\x1b[0m {command}", *kept(lines, spans)]))


if __name__ == "__main__":
    main()
