"""Making names that other processes chose safe to show.

comm, mapped file names and symbols may hold anything but NUL: escape
sequences, newlines, bidirectional overrides, invalid UTF-8. Outside
this module they travel as str decoded with "surrogateescape"; nothing is
printed or written that has not come through here.
"""

import unicodedata

# Cc controls, Cf format characters (bidi overrides, zero-width), Cs lone
# surrogates (undecodable bytes), Co/Cn private and unassigned, Zl/Zp line separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def decode(raw: bytes) -> str:
    """Bytes from the kernel as str, undecodable bytes kept as lone surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""`text` with every character a terminal could act on shown as an escape.

    Plain names come back unchanged (and unallocated); a backslash is doubled,
    always, so that no two names look the same and each can be told from its escapes.
    """
    if "\\" not in text:
        if text.isascii() and text.isprintable():
            return text
        if not any(unicodedata.category(c) in _UNSAFE for c in text):
            return text
    return "".join(_escape(c) for c in text)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate-escaped byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
