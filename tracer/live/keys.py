"""From the bytes a terminal sends to the keys that were pressed."""

import re

# What xterm and its like send (ctlseqs, "PC-Style Function Keys"; console_codes(4)).
_NAMED = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[7~": "home",
    "[4~": "end",
    "[8~": "end",
    "[5~": "page-up",
    "[6~": "page-down",
    "[Z": "back-tab",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "OH": "home",
    "OF": "end",
    "[1;2C": "shift-right",
    "[1;2D": "shift-left",
}
_PLAIN = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    " ": "space",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",  # Ctrl-U
    "\x0c": "redraw",  # Ctrl-L
    "\x03": "interrupt",
}
_SEQUENCE = re.compile(r"\x1b(\[[0-9;?<=>]*[ -/]*[@-~]|O[ -~])")
_BEGUN = re.compile(r"\x1b(\[[0-9;?<=>]*[ -/]*|O)?")


class Keys:
    """Decodes a stream of bytes; what is cut in the middle waits for the rest."""

    def __init__(self) -> None:
        self._bytes = b""
        self._text = ""

    @property
    def waiting(self) -> bool:
        """Whether something begun is not complete: an escape that may be the key or a sequence."""
        return bool(self._text or self._bytes)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete: a name of those above, or the character itself."""
        self._bytes += data
        keep = _incomplete(self._bytes)
        whole, self._bytes = (
            self._bytes[: len(self._bytes) - keep],
            self._bytes[len(self._bytes) - keep :],
        )
        self._text += whole.decode("utf-8", "replace")
        found: list[str] = []
        while self._text:
            match = _SEQUENCE.match(self._text)
            if match:
                if match[1] in _NAMED:
                    found.append(_NAMED[match[1]])
                self._text = self._text[match.end() :]
            elif self._text[0] == "\x1b":
                if _BEGUN.fullmatch(self._text):
                    break  # the rest may be on its way
                found.append("escape")
                self._text = self._text[1:]
            else:
                key = _PLAIN.get(self._text[0], self._text[0])
                if key.isprintable():
                    found.append(key)
                self._text = self._text[1:]
        return found

    def timeout(self) -> list[str]:
        """Nothing came after what was begun: an escape was the key of that name."""
        begun, self._text, self._bytes = self._text, "", b""
        return ["escape"] if begun else []


def _incomplete(data: bytes) -> int:
    """How many bytes at the end begin a character that is not whole (UTF-8)."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < need else 0
    return 0
