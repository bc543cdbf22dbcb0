"""How pages look: a glyph that shows the state without colour, and a colour that shows its age.

The colours are Okabe and Ito's, distinguishable with any colour vision.
"""

from dataclasses import dataclass, field

from tracer.common.units import ASCII, Glyphs
from tracer.live.pages import State
from tracer.model.rows import Kind

GREEN, ORANGE, SKY, PINK, BLUE, RED, YELLOW = (
    *("#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#d55e00", "#f0e442"),
)
GREY = "#8a8f94"
FAINT = "#5a5f64"

FRESH_NS = 1_000_000_000  # just gained, or just released
YOUNG_NS = 6_000_000_000  # until its glow has faded
_STEPS = 8  # of fading
_ALARM = f"bold {RED} reverse"

KIND_STYLES: dict[Kind, str] = {
    Kind.ANON: GREEN,
    Kind.ZERO: SKY,
    Kind.COW: ORANGE,
    Kind.REUSE: YELLOW,
    Kind.FILE: "#7cb9e8",
    Kind.MKWRITE: f"italic {SKY}",
    Kind.SHMEM: PINK,
    Kind.SWAP: RED,
    Kind.HUGE: PINK,
    Kind.HUGETLB: PINK,
    Kind.UFFD: f"italic {GREEN}",
    Kind.FAILED: _ALARM,
}


def _blend(one: str, other: str, share: float) -> str:
    """The colour `share` of the way from one to the other."""
    pairs = [(int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _fading(colours: tuple[str, ...], steps: int) -> list[str]:
    """`steps` colours from the first of `colours` through the others to the last."""
    found = []
    for step in range(steps):
        position = step / (steps - 1) * (len(colours) - 1)
        first = min(int(position), len(colours) - 2)
        found.append(_blend(colours[first], colours[first + 1], position - first))
    return found


# Gained: yellow, orange, green; released: red, then grey. By age, the youngest first.
GAINED = [f"bold {YELLOW}", *_fading((YELLOW, ORANGE, GREEN), _STEPS - 1)]
GONE = [f"bold {RED}", *_fading((RED, FAINT), _STEPS - 1)]


@dataclass(frozen=True)
class Charset:
    """The characters a terminal can show."""

    units: Glyphs = field(default_factory=Glyphs)
    states: dict[int, str] = field(  # by State
        default_factory=lambda: {
            State.ABSENT: "·",
            State.RESIDENT: "■",
            State.ZERO: "○",
            State.HUGE: "▣",
            State.SWAPPED: "▽",
            State.RELEASED: "×",
        },
        hash=False,
    )
    fresh: str = "◆"
    fill: str = "▁▂▃▄▅▆▇█"  # how much of a cell's pages have frames
    bars: str = "▁▂▃▄▅▆▇█"
    line: str = "─"
    marker: str = "▶"
    gap: str = "┄"
    dot: str = "●"
    back: str = "◀"
    track: str = "━"
    knob: str = "●"


PLAIN = Charset(
    units=ASCII,
    states={
        State.ABSENT: ".",
        State.RESIDENT: "o",
        State.ZERO: "0",
        State.HUGE: "H",
        State.SWAPPED: "s",
        State.RELEASED: "x",
    },
    fresh="*",
    fill="-:=+coO@",
    bars="_.-:=+*#",
    line="-",
    marker=">",
    gap="~",
    dot="*",
    back="<",
    track="-",
    knob="O",
)


def charset_for(encoding: str | None) -> Charset:
    """The default charset if `encoding` can write all of it, else PLAIN."""
    fancy = Charset()
    every = (
        "".join(fancy.states.values())
        + fancy.fill
        + "".join((fancy.fresh, fancy.line, fancy.marker, fancy.gap, fancy.dot, fancy.track))
    )
    try:
        every.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return fancy
