"""What the user has chosen to see, and what the keys do to it."""

from dataclasses import dataclass, field

from tracer.live.arrange import MOST_ZOOM, SORTS, Sort
from tracer.live.model import Area, Model
from tracer.live.pieces import Pieces
from tracer.model.rows import Kind

_STEP_NS = 100_000_000


@dataclass(frozen=True)
class Fitted:
    """The zoom found to fit, what it was found for, and until when that holds."""

    key: tuple[object, ...]
    until_ns: int
    zoom: int


@dataclass
class View:
    """Choices; those of the last picture that keys refer to are noted by the screen."""

    at_ns: int | None = None  # the moment shown; None: now
    selected: tuple[int, int] | None = None  # Area.key
    top: int = 0  # the first line shown of the map or table
    zoom: int | None = None  # pages a cell; None: what fits
    sort: Sort = "active"
    table: bool = False
    code: bool = False  # which code gained the memory, in place of map and table
    kind: Kind | None = None  # pages and faults of this kind only
    only: tuple[int, int] | None = None  # this region only
    find: str = ""  # regions whose name holds this
    typing: bool = False  # `find` is being typed
    talking: bool = False  # keys go to the command
    help: bool = False
    leaving: bool = False
    keeps: bool = True  # the selected line is to be in sight
    sent: list[bytes] = field(default_factory=list)  # for the command
    pieces: Pieces = field(default_factory=Pieces)
    # Of the last picture:
    listed: list[tuple[int, int]] = field(default_factory=list)  # keys of areas, in order
    shown_zoom: int = 1
    fitted: Fitted | None = None
    page: int = 10  # lines of the map
    lines: int = 0  # there are, of it

    # -- keys ---------------------------------------------------------------------

    def press(self, key: str, model: Model, *, command: bool = False) -> None:
        """Do what a key (keys.Keys) stands for; `command`: there is one that takes input."""
        if self.talking:
            self._talk(key)
        elif self.typing:
            self._type(key)
        elif self.help and key != "q":
            self.help = False
        elif key in ("enter", "i") and command:
            self.talking = key == "i"
            if key == "enter":
                self.sent.append(b"\n")
        elif not self._move(key) and not self._scrub(key, model):
            self._choose(key, model)

    def _talk(self, key: str) -> None:
        if key == "escape":
            self.talking = False
            return
        named = {"enter": "\n", "tab": "\t", "space": " ", "backspace": "\x7f", "clear": "\x15"}
        text = named.get(key, key if len(key) == 1 else "")
        if text:
            self.sent.append(text.encode())

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.typing = False
            if key == "escape":
                self.find = ""
        elif key == "backspace":
            self.find = self.find[:-1]
        elif key == "clear":
            self.find = ""
        elif key == "space":
            self.find += " "
        elif len(key) == 1:
            self.find += key
        self.top = 0

    def _move(self, key: str) -> bool:
        """Step through regions and scroll; whether the key was one for that."""
        match key:
            case "down" | "tab":
                self._step(1)
            case "up" | "back-tab":
                self._step(-1)
            case "page-down":
                self._scroll(self.page)
            case "page-up":
                self._scroll(-self.page)
            case _:
                return False
        return True

    def _step(self, by: int) -> None:
        if not self.listed:
            return
        at = self.listed.index(self.selected) + by if self.selected in self.listed else 0
        self.selected = self.listed[min(max(at, 0), len(self.listed) - 1)]
        self.keeps = True

    def _scroll(self, by: int) -> None:
        self.top = max(min(self.top + by, self.lines - self.page), 0)
        self.keeps = False

    def _scrub(self, key: str, model: Model) -> bool:
        """Stop, go on, and go through time; whether the key was one for that."""
        now = model.latest_ns if self.at_ns is None else self.at_ns
        run = model.latest_ns - model.start_ns
        step = max(run // 100, min(_STEP_NS, max(run // 20, 1_000_000)))
        steps = {"left": -step, "right": step, "shift-left": -10 * step, "shift-right": 10 * step}
        steps |= {"<": -10 * step, ">": 10 * step, ",": -step, ".": step}
        match key:
            case "space" | "p":
                self.at_ns = model.latest_ns if self.at_ns is None else None
            case "home":
                self.at_ns = model.start_ns
            case "end":
                self.at_ns = model.latest_ns if model.ended else None
            case _ if key in steps:
                self.at_ns = min(max(now + steps[key], model.start_ns), model.latest_ns)
            case _:
                return False
        return True

    def _choose(self, key: str, model: Model) -> None:
        match key:
            case "q":
                self.leaving = True
            case "?" | "h":
                self.help = True
            case "k" | "K":
                self._next_kind(model.kinds(), 1 if key == "k" else -1)
            case "f":
                self.only = None if self.only else self.selected
                self.top = 0
            case "/":
                self.typing, self.find = True, ""
            case "s":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
                self.keeps = True
            case "c":
                self.code, self.top = not self.code, 0
            case "t" | "g":
                self.table, self.code, self.top = not (self.table or self.code), False, 0
                self.keeps = True
            case "+" | "=":
                self.zoom = max(self.shown_zoom // 2, 1)
                self.keeps = True
            case "-":
                self.zoom = min(self.shown_zoom * 2, MOST_ZOOM)
                self.keeps = True
            case "0":
                self.zoom = None
                self.keeps = True
            case "escape":
                self.kind, self.only, self.find, self.top = None, None, "", 0

    def _next_kind(self, kinds: list[Kind], by: int) -> None:
        choices: list[Kind | None] = [None, *kinds]
        at = choices.index(self.kind) if self.kind in choices else 0
        self.kind = choices[(at + by) % len(choices)]

    # -- what follows from them ------------------------------------------------------

    def filters(self, areas: list[Area]) -> str:
        """What is left out, in words; "" where nothing is."""
        said = []
        if self.kind is not None:
            said.append(f"kind {self.kind.name.lower()}")
        if self.only is not None and areas:
            said.append("this region")
        if self.find:
            said.append(f"name {self.find}")
        return ", ".join(said)
