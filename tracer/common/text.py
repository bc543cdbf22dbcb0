"""Escaping names that other processes chose, for safe output.

comm, mapped file names and symbols may hold anything but NUL: escape
sequences, newlines, bidirectional overrides, invalid UTF-8. Outside
this module they travel as str decoded with "surrogateescape"; nothing is
printed or written that was not escaped here.
"""

import re
import unicodedata

# Cc controls, Cf format characters (bidi overrides, zero-width), Cs lone
# surrogates (undecodable bytes), Co/Cn private and unassigned, Zl/Zp line separators,
# Zs blanks other than the usual one.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
# Letters and marks that nothing is drawn for (Unicode's Default_Ignorable_Code_Point, as far
# as the categories above do not have them): a name could differ from another unseen.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


_TAG = re.compile(r"\.(cpython-\w+|abi3)(-[\w-]+)?(?=\.so\b)")


def decode(raw: bytes) -> str:
    """Bytes from the kernel as str, undecodable bytes kept as lone surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""`text` with every character a terminal could act on shown as an escape.

    Plain names are returned unchanged (and not copied); a backslash is always
    doubled, so that no two names look the same and escapes are unambiguous.
    """
    return harmless(text.replace("\\", "\\\\"))


def without_tag(name: str) -> str:
    """The file name of a Python extension without the tag of its build (PEP 3149)."""
    return _TAG.sub("", name)


def harmless(text: str) -> str:
    r"""`printable` for sentences, whose names are `printable` already: backslashes stay."""
    if text.isascii() and text.isprintable():
        return text
    if not any(_is_unsafe(c) for c in text):
        return text
    return "".join(_escape(c) if _is_unsafe(c) else c for c in text)


def _is_unsafe(char: str) -> bool:
    if char == " ":
        return False
    return unicodedata.category(char) in _UNSAFE or _UNSEEN.match(char) is not None


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate-escaped byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
