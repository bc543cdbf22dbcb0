"""Names out of perf maps, as runtimes write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.callstacks.jit_names import JitName, jit_name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("JS:*fill /app/w.js:2:54", JitName("fill", "/app/w.js", 2)),
        ("JS:~Module._load node:internal/modules/cjs/loader:1003:24",
         JitName("Module._load", "node:internal/modules/cjs/loader", 1003)),
        ("LazyCompile:^f /a b/w.js:7", JitName("f /a", "b/w.js", 7)),
        ("LazyCompile:~get x file:///app/w.mjs:3:1", JitName("get x", "file:///app/w.mjs", 3)),
        ("Function:+f w.js:3", JitName("f", "w.js", 3)),
        ("JS:~ node:internal/util:801:18", JitName("(anonymous)", "node:internal/util", 801)),
        ("JS:^gen18 :1:16", JitName("gen18", "", 1)),
        ("Eval:~ :1:1", JitName("(anonymous)", "", 1)),
        ("Script:~ /app/w.js:1:1", JitName("(anonymous)", "/app/w.js", 1)),
        ("JS:*f", JitName("f")),
        ("JS:*", JitName("(anonymous)")),
        ("RegExp:a+b", JitName("RegExp:a+b")),
        ("Builtin:ArrayMap", JitName("ArrayMap")),
        ("BytecodeHandler:LdaZero", JitName("LdaZero")),
        ("py::fill:/app/w.py", JitName("fill", "/app/w.py")),
        ("py::<module>:<string>", JitName("<module>", "<string>")),
        ("void J.fill(java.util.HashMap, int)", JitName("void J.fill(java.util.HashMap, int)")),
        ("Interpreter", JitName("Interpreter")),
    ],
)  # fmt: skip
def test_names(raw: str, name: JitName) -> None:
    assert jit_name(raw) == name


def test_the_tier_is_no_part_of_a_name() -> None:
    """A function is compiled again and again, at other addresses or the same."""
    assert len({jit_name(f"JS:{tier}f /w.js:2:1") for tier in ("~", "^", "+", "*", "")}) == 1


@given(st.one_of(st.text(max_size=40), st.text("JS:*~^ /w.1\n", max_size=40).map("JS:*".__add__)))
def test_any_name_stays_one(raw: str) -> None:
    assert jit_name(raw).function or not raw
