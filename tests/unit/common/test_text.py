"""Names other processes chose come out harmless, and each can be read back from its escapes."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.common.text import decode, printable, without_tag

ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=())) | st.binary(
    max_size=40
).map(lambda raw: decode(raw.replace(b"\0", b"")))


def restored(text: str) -> str:
    """What `printable` was given."""

    def one(match: re.Match[str]) -> str:
        body = match[1]
        if body == "\\":
            return "\\"
        code = int(body[1:], 16)
        return chr(code + 0xDC00 if body[0] == "x" and code >= 0x80 else code)

    return re.sub(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", one, text)


@pytest.mark.parametrize("plain", ["", "multimap", "/usr/lib/libc.so.6", "naïve—日本語", "a b"])
def test_plain_names_are_unchanged(plain: str) -> None:
    assert printable(plain) == plain


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb", r"a\x0ab"),
        ("a\\b", r"a\\b"),
        (r"\x1b", r"\\x1b"),
        ("\u202e", r"\u202e"),
        ("\U000e0001", r"\U000e0001"),
        (decode(b"\xff"), r"\xff"),
        ("\x85", r"\u0085"),
    ],
)
def test_the_rest_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(ANY)
def test_nothing_a_terminal_could_act_on_is_left(name: str) -> None:
    shown = printable(name)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    shown.encode()  # no lone surrogates


@given(ANY)
def test_every_name_can_be_had_back(name: str) -> None:
    assert restored(printable(name)) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("_json.cpython-311-x86_64-linux-gnu.so", "_json.so"),
        ("x.cpython-313t-x86_64-linux-gnu.so+0x10", "x.so+0x10"),
        ("x.cpython-313d.so", "x.so"),
        ("x.abi3.so", "x.so"),
        ("x.y.abi3-aarch64-linux-gnu.so.1", "x.y.so.1"),
        *[(same, same) for same in ("", "libc.so.6", "x.cpython-311.sod", "abi3.so", "a.abi3")],
    ],
)
def test_an_extension_s_name_has_no_tag(name: str, shown: str) -> None:
    assert without_tag(name) == shown
